"""Trainings that go on from the live version: only what has changed is learned, and some of the rest repeated."""

from __future__ import annotations

from collections.abc import Iterator

from django.utils.translation import gettext as _

from training import runs, versions
from training.differences import Changes, Kind, changes_since
from training.lm.config import TrainConfig
from training.models import AdapterVersion, TrainingRun

# More than this is learned better from the beginning, and hardly slower.
MAX_CHANGED_SHARE = 0.25
# What an adapter is made with cannot change on the way.
KEPT_PARAMETERS = (
    *("cut_completions", "lora_r", "lora_alpha", "lora_dropout"),
    *("load_in_4bit", "bnb_4bit_quant_type", "bnb_4bit_use_double_quant"),
)
# What each update forgets adds up.
MAX_UPDATES_IN_A_ROW = 10


class CannotUpdate(RuntimeError):
    """The next training cannot go on from the live version; the text tells staff why."""


def version_to_update(config: TrainConfig | None = None, *, is_certain: bool = True) -> AdapterVersion:
    """The live version, if the next training may go on from it.

    Args:
        config: what is to be trained with; None for the preset as it is.
        is_certain: read the adapter's files to their end too.

    Raises:
        CannotUpdate: there is none, its files or those it rests on are gone, it is of another kind than what would be
            trained now, or too much or nothing has changed since.
    """
    live = versions.live_version()
    if live is None:
        raise CannotUpdate(_("No version is live yet."))
    line = list(lineage(live))
    try:
        versions.check_base(live)
        if is_certain:
            versions.check_files(live)
        changes = changes_since(live)
    except versions.VersionError as error:
        raise CannotUpdate(str(error)) from error
    except OSError as error:
        raise CannotUpdate(_("The files of version %(version)s are missing.") % {"version": live}) from error
    if not all((each.snapshot.path / "train.jsonl").is_file() for each in line):
        raise CannotUpdate(_("What version %(version)s has learned is not kept any more.") % {"version": live})
    if len(line) > MAX_UPDATES_IN_A_ROW:
        raise CannotUpdate(_("After %(num)d updates it is time for a whole training.") % {"num": MAX_UPDATES_IN_A_ROW})
    if line[-1].run.preset == TrainingRun.Preset.UPDATE:
        # Brought in from elsewhere, without what it goes on from.
        raise CannotUpdate(_("What version %(version)s has learned is not kept any more.") % {"version": live})
    wanted = (config or runs.preset_config(TrainingRun.Preset.UPDATE)).to_dict()
    if any(live.run.config.get(name, wanted[name]) != wanted[name] for name in KEPT_PARAMETERS):
        raise CannotUpdate(_("Version %(version)s has learned its answers in another way.") % {"version": live})
    _check_amount(changes)
    return live


def _check_amount(changes: Changes) -> None:
    changed = changes.num(Kind.NEW, Kind.ANSWER, Kind.WORDINGS)
    if not changed:
        raise CannotUpdate(_("Nothing has changed since: there is no need to train."))
    num_entries = changes.num_learned + changes.num(Kind.NEW)
    if changed > max(1, MAX_CHANGED_SHARE * num_entries):
        raise CannotUpdate(
            _("%(changed)d of %(num)d answers have changed: that is learned better from the beginning.")
            % {"changed": changed, "num": num_entries}
        )


def lineage(version: AdapterVersion | None) -> Iterator[AdapterVersion]:
    """The version, the one that it went on from, and so on."""
    while version is not None:
        yield version
        version = version.run.warm_start_from
