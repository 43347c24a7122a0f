"""ICD codes as text: what is one, and how it is cut to its category."""

import re

from shared_core.errors import InputError

# three digits and up to two more; V: two and two; E: three and one
ICD9 = re.compile(r"\d{3}\d{0,2}|V\d{2}\d{0,2}|E\d{3}\d?")
ICD10 = re.compile(r"[A-Z]\d[0-9A-Z][0-9A-Z]{0,4}")


def clean_icd(code: str, version: int) -> str:
    """Upper case, no dot, no blanks; the empty text stays.

    Args:
        code: as in the table.
        version: 9 or 10.

    Raises:
        InputError: for what is not a code of that version; names lost leading zeros as such.
    """
    text = code.strip().upper()
    if not text:
        return ""
    if re.fullmatch(r"\d{4,}\.0", text) or re.fullmatch(r"\d{1,2}(\.0?)?", text):
        raise InputError(
            f"{code!r} was read as a number: its leading zeros are lost; write the codes as text ('0389', not 389)"
        )
    dots = text.count(".")
    text = text.replace(".", "")
    if dots > 1 or not (ICD9 if version == 9 else ICD10).fullmatch(text):
        raise InputError(f"{code!r} is not an ICD-{version} code")
    return text


def truncate_icd(code: str, version: int, truncation: str) -> str:
    """`icd3`: three characters, four for ICD-9's E codes; `none`: all; a number: so many characters."""
    if truncation == "none":
        return code
    if truncation == "icd3":
        return code[: 4 if version == 9 and code.startswith("E") else 3]
    return code[: int(truncation)]


def check_truncation(truncation: str) -> None:
    """Refuse what is neither icd3, none nor a positive number.

    Raises:
        InputError: then.
    """
    if truncation not in ("icd3", "none") and not (truncation.isdigit() and int(truncation) > 0):
        raise InputError(f"--truncate must be icd3, none or a number of characters, got {truncation!r}")
