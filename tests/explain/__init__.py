import pytest

pytest.register_assert_rewrite("tests.explain.reader")  # a failure shows the numbers, as one in a test does
