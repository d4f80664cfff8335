import pytest

from deco_lab import cli


def test_main_hands_the_words_to_the_command(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["deco-lab", "train", "--clip", "0"])
    with pytest.raises(SystemExit, match="2"):
        cli.main()
    assert "clip must lie in [1e-06, 1e+06], got 0.0" in capsys.readouterr().err


def test_main_names_its_commands(capsys):
    for words in ([], ["--help"]):
        cli.main(words)
        assert "deco-lab {train" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        cli.main(["trian"])
    assert "command must be one of train" in capsys.readouterr().err


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_commands_are_there_and_say_their_options(command: str, capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main([command, "--help"])
    assert "--out" in capsys.readouterr().out
