from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from training import bundles, versions
from training.bundle_format import BundleError
from training.models import AdapterVersion


class Command(BaseCommand):
    help = "Write a version with its training data and exam as one file, or merged with its base as one plain model."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("version_name", metavar="VERSION", help="its number or name")
        parser.add_argument("file", nargs="?", help="a new file, for import_version on another server")
        parser.add_argument(
            "--merged", metavar="FOLDER", help="a new folder, for servers that load transformers models"
        )
        parser.add_argument(
            "--dtype", choices=["float32", "bfloat16"], default="float32", help="of the weights, with --merged"
        )
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(
        self, *args: Any, version_name: str, file: str | None, merged: str | None, dtype: str, **options: Any
    ) -> None:
        if (file is None) == (merged is None):
            raise CommandError("Name either a FILE or a --merged FOLDER.")
        summary: dict[str, Any]
        try:
            version = versions.find(version_name)
            if merged is not None:
                bundles.export_merged(version, Path(merged), dtype=dtype)
                summary = {"version": version.name, "folder": merged, "dtype": dtype}
            else:
                summary = write_bundle(version, Path(file or ""))
        except (versions.VersionError, BundleError) as error:
            raise CommandError(str(error)) from error
        except OSError as error:
            raise CommandError(f"{file or merged} cannot be written: {error}") from error
        words = f"{summary['version']} is in {summary.get('file') or summary.get('folder')}."
        self.stdout.write(json.dumps(summary, ensure_ascii=False) if options["json"] else words)


def write_bundle(version: AdapterVersion, path: Path) -> dict[str, Any]:
    """
    Raises:
        OSError: the file is there already, or cannot be written; then there is none.
        VersionError: as `export_version`.
    """
    with path.open("xb") as target:
        try:
            bundles.export_version(version, target)
        except BaseException:
            path.unlink()
            raise
    with path.open("rb") as written:
        digest = hashlib.file_digest(written, "sha256").hexdigest()
    return {"version": version.name, "file": str(path), "bytes": path.stat().st_size, "sha256": digest}
