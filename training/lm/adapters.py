"""One base model with the adapters of several versions resident on it. For one thread alone: the engine's."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from pathlib import Path
from typing import Any

from peft import PeftModel
from safetensors import SafetensorError

from training.lm.config import BaseModel, Precision
from training.lm.loading import load_base

# The base is named by its label, which PEFT takes for a folder to look up.
warnings.filterwarnings("ignore", message="Could not find a config file", module="peft")

ADAPTER_NAME_LENGTH = len("v-000000-00000000")


class AdapterError(RuntimeError):
    """A version's adapter cannot be loaded. The text says why."""


class Adapters:
    """Loads an adapter when it is first wanted; the one unused for longest makes room, and comes back when wanted.

    Adapters are never merged into the base, whose weights all of them share.
    """

    def __init__(self, base: BaseModel, precision: Precision, max_resident: int) -> None:
        self._base = base
        self._precision = precision
        self._max_resident = max_resident
        self._folders: dict[str, Path] = {}
        self._resident: OrderedDict[str, None] = OrderedDict()
        # The base with all adapters; None until the first one is loaded.
        self.model: Any = None

    @property
    def resident(self) -> tuple[str, ...]:
        """Versions that are loaded, the one unused for longest first."""
        return tuple(self._resident)

    def load(self, version: str, folder: Path) -> None:
        """Make a version resident.

        Raises:
            AdapterError: missing or damaged files, or an adapter for another base.
            BaseModelError: the base model cannot be used.
        """
        if version in self._resident:
            return
        if len(version) != ADAPTER_NAME_LENGTH:
            # PEFT matches adapter names by prefix in places; names of one length cannot be prefixes of each other.
            raise AdapterError(f"a version's name has {ADAPTER_NAME_LENGTH} characters, not {version!r}")
        if not (folder / "adapter_model.safetensors").is_file():
            raise AdapterError(f"{folder.name} holds no adapter_model.safetensors")
        base = load_base(self._base, precision=self._precision) if self.model is None else None
        try:
            if base is not None:
                self.model = PeftModel.from_pretrained(base, folder, adapter_name=version)
            else:
                self.model.load_adapter(str(folder), adapter_name=version)
        except (SafetensorError, OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
            self._forget_failed(version)
            raise AdapterError(f"the adapter of {version} cannot be loaded: {error}") from error
        self.model.eval()
        # The one that makes room must not be the one in use.
        self.model.set_adapter(version)
        self._folders[version] = folder
        self._resident[version] = None
        while len(self._resident) > self._max_resident:
            oldest, _ = self._resident.popitem(last=False)
            self.model.delete_adapter(oldest)

    def use(self, version: str) -> None:
        """Have the next forward speak for this version.

        Raises:
            AdapterError: it was never loaded, or made room and cannot be loaded again.
        """
        if version not in self._resident:
            if version not in self._folders:
                raise AdapterError(f"{version} is not loaded")
            self.load(version, self._folders[version])
        self._resident.move_to_end(version)
        if self.model.active_adapter != version:
            self.model.set_adapter(version)

    def _forget_failed(self, version: str) -> None:
        """Leave no half-loaded adapter behind: the base is reloaded with the next version when it was the first."""
        if not self._resident:
            self.model = None
        elif version in self.model.peft_config:
            self.model.set_adapter(next(reversed(self._resident)))
            self.model.delete_adapter(version)
