"""From what a user writes to a backend: `smollm2`, `local:PATH`, `URL#MODEL`, `replay:PATH`, `scripted:FILE`."""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from shared_core.errors import InputError

from rar_prompt.chat import Backend
from rar_prompt.limits import Limits
from rar_prompt.retry import Retry


@dataclass(frozen=True)
class Endpoint:
    """How a model is reached; none of it changes what it says, so a resumed run may change it.

    Args:
        key_env: environment variable with the API key.
        concurrency: requests in flight.
        requests_per_minute: RPM limit.
        tokens_per_minute: TPM limit.
        timeout: seconds of one attempt.
        attempts: requests that may fail, the first included.
        patience: seconds of waiting (429) before a request is given up.
        batch_size: rows at once, of a local model.
        device: of a local model: auto, cpu, cuda, cuda:N or mps.
    """

    key_env: str | None = None
    concurrency: int = 16
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    timeout: float = 120.0
    attempts: int = 6
    patience: float = 600.0
    batch_size: int = 16
    device: str = "auto"


def open_backend(spec: str, endpoint: Endpoint = Endpoint(), models: str | None = None) -> Backend:
    """The backend that `spec` names.

    Args:
        spec: `smollm2`; `local:FOLDER` or `local:FILE.gguf`; `http://HOST/v1#MODEL`; `replay:RUN` or
            `replay:RUN#MODEL`; `scripted:FILE.yaml`; or a name of the file `models`.
        endpoint: limits and timeouts.
        models: a YAML file `name: {model: SPEC, key_env: ..., concurrency: ...}`, which overrides `endpoint`.

    Raises:
        InputError: if nothing of that name can be opened.
    """
    if models is not None:
        entries = read_models(models)
        if spec in entries:
            own = entries[spec]
            settings = {name: value for name, value in own.items() if name not in ("model", "extra")}
            return _open(own["model"], replace(endpoint, **settings), own.get("extra"))
    return _open(spec, endpoint, None)


def _open(spec: str, endpoint: Endpoint, extra: dict[str, Any] | None) -> Backend:
    kind, _, rest = spec.partition(":")
    path, _, model = rest.partition("#")
    if spec == "smollm2":
        from rar_prompt.backends.smollm2 import load_smollm2

        return load_smollm2(batch_size=endpoint.batch_size, device=endpoint.device)
    if kind == "local" and rest:
        from rar_prompt.backends.local import load_local

        return load_local(rest, batch_size=endpoint.batch_size, device=endpoint.device)
    if kind == "replay" and rest:
        from rar_prompt.backends.replay import Replay

        return Replay(path, model or None)
    if kind == "scripted" and rest:
        from rar_prompt.backends.scripted import scripted_from_file

        return scripted_from_file(rest)
    if kind in ("http", "https"):
        from rar_prompt.backends.http import ChatServer

        url, _, name = spec.partition("#")
        limits = Limits(endpoint.concurrency, endpoint.requests_per_minute, endpoint.tokens_per_minute)
        retry = Retry(attempts=endpoint.attempts, patience=endpoint.patience)
        return ChatServer(
            url, name, key_env=endpoint.key_env, limits=limits, retry=retry, timeout=endpoint.timeout, extra=extra
        )
    raise InputError(
        f"there is no model {spec!r}: give smollm2, local:PATH, http://HOST/v1#MODEL, replay:RUN, scripted:FILE, "
        "or a name of --models"
    )


def read_models(path: str) -> dict[str, dict[str, Any]]:
    """The entries of a models file.

    Raises:
        InputError: naming file, entry and key.
    """
    from shared_core.run_folder import read_config

    if not Path(path).is_file():
        raise InputError(f"--models {path}: there is no such file")
    allowed = {"model", "extra", *(field.name for field in fields(Endpoint))}
    entries = read_config(path)
    for name, entry in entries.items():
        if not isinstance(entry, dict) or not isinstance(entry.get("model"), str):
            raise InputError(f"{path}: {name}: wanted {{model: http://HOST/v1#MODEL, ...}}")
        unknown = sorted(set(entry) - allowed)
        if unknown:
            raise InputError(f"{path}: {name}: unknown key {unknown[0]!r}; keys: {', '.join(sorted(allowed))}")
    return entries
