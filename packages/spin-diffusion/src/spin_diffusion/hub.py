"""Models named by a folder or a hub id: what is not there is said at once and in one line.

Left to themselves the libraries ask an unreachable hub again and again for the better part of a minute, and then tell
that a file of the model is missing.
"""

from pathlib import Path

from shared_core.errors import InputError

SECONDS = 5.0  # for the hub's answer


def check_source(source: str, file: str) -> Path | None:
    """The folder that `source` names, or None for a hub id whose `file` is in the hub's cache or on the hub.

    Args:
        source: a folder, or `owner/name`.
        file: that tells whether the model is there.

    Raises:
        InputError: if it is neither, or the hub has no such model, or cannot be asked.
    """
    path = Path(source)
    if path.exists():
        return path
    if source.count("/") != 1:
        raise InputError(f"{source}: no such folder, and a hub id has the form owner/name")
    _check_hub(source, file)
    return None


def _check_hub(source: str, file: str) -> None:
    import huggingface_hub as hub
    from huggingface_hub import errors

    nowhere = f"{source}: no such folder, and no model of that name in the hub's cache on this machine"
    try:
        if isinstance(hub.try_to_load_from_cache(source, file), str):
            return
        hub.get_hf_file_metadata(hub.hf_hub_url(source, file), timeout=SECONDS)  # asks once
    except errors.HFValidationError:
        raise InputError(f"{source}: no such folder, and no hub id either") from None
    except errors.OfflineModeIsEnabled:
        raise InputError(f"{nowhere}; the hub is not asked, as HF_HUB_OFFLINE is set") from None
    except errors.GatedRepoError:
        raise InputError(f"{source} is gated on the hub: accept its terms there and give HF_TOKEN") from None
    except errors.RepositoryNotFoundError:
        raise InputError(f"{nowhere}; the hub has none either, or it is private and needs HF_TOKEN") from None
    except errors.EntryNotFoundError:
        raise InputError(f"{source} has no {file} on the hub") from None
    except Exception as error:  # the errors of whatever HTTP library the hub's client uses
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        raise InputError(f"{nowhere}; the hub cannot be reached ({reason})") from error
