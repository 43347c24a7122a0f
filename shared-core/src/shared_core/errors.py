"""The two expected kinds of failure; everything else is a bug."""


class InputError(ValueError):
    """A value given by the user cannot be used: names the argument, what was given, what was expected.

    A command prints it as one line and exits with 2. It is a `ValueError`, so library callers need not know it.
    """


class RunError(RuntimeError):
    """The work started from good input and could not go on (for example logits became NaN at step 7).

    A command prints it as one line and exits with 1.
    """
