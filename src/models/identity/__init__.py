"""Who is in a picture: face analysers and alignment."""
