"""`python -m excise`: the command line, for launchers that start modules."""

from excise.cli.app import main

if __name__ == "__main__":
    main()
