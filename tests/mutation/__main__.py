"""python -m tests.mutation: what the tests notice."""

from tests.mutation.score import main

if __name__ == "__main__":
    main()
