"""`python -m xaibench`."""

from xaibench.cli.app import main

if __name__ == "__main__":
    main()
