"""What holds for every test of the repository."""

from hypothesis import settings

# Two noisy cores: how long one example takes says nothing. The same examples in every run, so that a red run is news.
settings.register_profile("repository", deadline=None, derandomize=True)
settings.load_profile("repository")
