"""What every test shares: how Hypothesis searches.

`make test` derives its examples from each test alone, so that a change is judged the same
everywhere; `make soak` searches at random and longer. Deadlines are off: a busy machine proves
nothing by being slow.
"""

from hypothesis import settings

settings.register_profile("test", deadline=None, derandomize=True, print_blob=True)
settings.register_profile("soak", deadline=None, max_examples=2000, print_blob=True)
settings.load_profile("test")
