from likeness.prepare import main

if __name__ == "__main__":
    main()
