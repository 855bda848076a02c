"""``python -m quantkit``: the command line, if the script ``quantkit`` is not on the path."""

from quantkit.cli.main import main

if __name__ == "__main__":
    main()
