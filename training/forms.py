"""What staff type into the training room: parameters of a training, a moment in the past."""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import datetime
from typing import Any

from django import forms
from django.utils import timezone
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from training.lm.config import PRESETS, Requirement, TrainConfig, broken_requirement
from training.models import TrainingRun
from training.runs import preset_config

# A column of the run holds the steps.
MAX_WHOLE = 2**31 - 1

# Not among them: how the base is quantised. Every version is served on the same 4-bit base, whatever it learned on.
HELP: dict[str, Any] = {
    "num_train_epochs": _("How often every wording is gone through."),
    "min_steps": _("At least so many steps, however few wordings there are."),
    "max_steps": _("At most so many steps."),
    "per_device_train_batch_size": _("Wordings learned at the same time. Fewer need less memory."),
    "gradient_accumulation_steps": _("Batches put together before each step: more in less memory, slower."),
    "learning_rate": _("How much each step changes. Larger bases want less: 0.0002."),
    "warmup_ratio": _("Share of the steps in which the learning rate rises from zero."),
    "weight_decay": _("How strongly large weights are pulled back."),
    "lora_r": _("Size of the adapter. A larger one can learn more and needs more memory."),
    "lora_alpha": _("Weight of the adapter; usually the same as lora_r."),
    "lora_dropout": _("Share of the adapter left out at random in each step."),
    "max_length": _("Tokens of question and answer together; what is longer is cut."),
    "seed": _("The same number, data and machine give the same version."),
    "cut_completions": _("Learn answers only as far as they differ from each other: faster."),
    "num_augmented": _("Copies of each wording as customers type it, with slips and without accents."),
    "min_rows_per_answer": _("Answers with few wordings get copies up to so many."),
    "replay_ratio": _("Wordings repeated for each new one where only changes are learned."),
    "min_replayed": _("And at least so many."),
    "save_steps": _("Steps between two checkpoints, from which an interrupted training goes on."),
    "early_stopping_patience": _(
        "Measurements without improvement after which the training ends early. 0: it goes to its last step."
    ),
}
REQUIREMENTS = {
    Requirement.POSITIVE: _("It must be greater than 0."),
    Requirement.NOT_NEGATIVE: _("It must be at least 0."),
    Requirement.SHARE: _("It must be at least 0 and less than 1."),
    Requirement.QUANT_TYPE: _("It must be nf4 or fp4."),
}


class TrainingForm(forms.Form):
    """A preset and what is to differ from it. A parameter left empty is the preset's."""

    preset = forms.ChoiceField(
        choices=TrainingRun.Preset.choices,
        initial=TrainingRun.Preset.NORMAL,
        required=False,
        error_messages={"invalid_choice": _("Choose one of the ways to train.")},
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        presets = {preset: preset_config(preset).to_dict() for preset in PRESETS}
        for each in fields(TrainConfig):
            if each.name in HELP:
                usual = {preset: values[each.name] for preset, values in presets.items()}
                self.fields[each.name] = _field(each.name, each.default, usual)

    @property
    def parameters(self) -> list[forms.BoundField]:
        return [field for field in self if field.name in HELP]

    @property
    def is_open(self) -> bool:
        """Whether somebody has typed among the parameters, so that they must be seen."""
        return any(field.errors or field.data not in (None, "") for field in self.parameters)

    def clean_preset(self) -> str:
        return self.cleaned_data["preset"] or TrainingRun.Preset.NORMAL

    def clean(self) -> None:
        for name, value in self._given().items():
            broken = broken_requirement(name, value)
            if broken is not None:
                self.add_error(name, REQUIREMENTS[broken])

    def _given(self) -> dict[str, Any]:
        given = {name: self.cleaned_data.get(name) for name in HELP}
        return {name: value for name, value in given.items() if value is not None}

    @property
    def config(self) -> TrainConfig | None:
        """What is to be trained with, once the form is valid; None if it is the preset as it is."""
        given = self._given()
        return replace(preset_config(self.cleaned_data["preset"]), **given) if given else None


def _field(name: str, default: Any, usual: dict[str, Any]) -> forms.Field:
    shared: dict[str, Any] = {"label": name, "required": False, "help_text": _help(name, usual)}
    if isinstance(default, bool):
        return forms.TypedChoiceField(
            choices=[("", _("as the preset says")), ("yes", _("yes")), ("no", _("no"))],
            coerce=lambda value: value == "yes",
            empty_value=None,
            **shared,
        )
    if isinstance(default, int):
        return forms.IntegerField(max_value=MAX_WHOLE, **shared)
    field = forms.FloatField(**shared)
    # A browser counts in ones from whatever is given, unless it is told that any number will do.
    field.widget.attrs["step"] = "any"
    return field


def _help(name: str, usual: dict[str, Any]) -> str:
    """What a parameter is for, and what it is if left empty."""
    texts = {preset: _shown(value) for preset, value in usual.items()}
    if len(set(texts.values())) == 1:
        values = next(iter(texts.values()))
    else:
        values = ", ".join(f"{TrainingRun.Preset(preset).label}: {text}" for preset, text in texts.items())
    left_empty = gettext("If left empty: %(values)s.") % {"values": values}
    return f"{HELP[name]} {left_empty}"


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return gettext("yes") if value else gettext("no")
    return f"{value:g}" if isinstance(value, float) else str(value)


class MomentForm(forms.Form):
    """A moment in the past, in the site's time zone."""

    at = forms.DateTimeField(
        label=_("Which version spoke at…"),
        widget=forms.DateTimeInput(
            attrs={"type": "datetime-local", "class": "room-input", "min": "2000-01-01T00:00"}, format="%Y-%m-%dT%H:%M"
        ),
    )

    def clean_at(self) -> datetime:
        at: datetime = self.cleaned_data["at"]
        if at.year < 2000:
            raise forms.ValidationError(gettext("Nothing is recorded of that time."))
        # A year that no time zone reaches is in the future in every one of them.
        if at.year > timezone.now().year + 1 or at > timezone.now():
            raise forms.ValidationError(gettext("That time has not come yet."))
        return at
