import pytest

from likeness.shares import Share, find_share


def test_shares_cover_every_line_once():
    lines = list(range(10))
    parts = [find_share(f"{index}/4", {}).of(lines) for index in range(4)]
    assert parts[1] == [1, 5, 9]  # line index modulo number of processes
    assert sorted(line for part in parts for line in part) == lines


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, Share(0, 1, 0)),
        ({"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}, Share(3, 8, 1)),
        ({"SLURM_PROCID": "2", "SLURM_STEP_NUM_TASKS": "4", "SLURM_LOCALID": "0"}, Share(2, 4, 0)),
        # A batch script of four tasks that starts one process without srun.
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, Share(0, 1, 0)),
    ],
)
def test_launchers_are_recognised(environment, expected):
    assert find_share("auto", environment) == expected


def test_given_share_counts_more_than_the_launcher():
    assert find_share("0/2", {"RANK": "3", "WORLD_SIZE": "8"}) == Share(0, 2)


@pytest.mark.parametrize("setting", ["4/4", "1", "a/b", "-1/2", "0/0", "none"])
def test_wrong_share_is_refused(setting):
    with pytest.raises(ValueError, match=f"share={setting} is neither auto nor I/N"):
        find_share(setting, {})
