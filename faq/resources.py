"""Entries as a table that staff take out, work on in a spreadsheet and bring back (django-import-export)."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from uuid import uuid4

import tablib
from django.conf import settings
from django.core.exceptions import ValidationError
from django.utils import translation
from django.utils.functional import Promise
from django.utils.text import slugify
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from import_export import fields, resources, widgets
from import_export.tmp_storages import BaseStorage

from faq.importing import replace_paraphrases
from faq.models import FaqEntry, Language, Paraphrase
from faq.spreadsheets import BadTable, no_formula

# What a column is called, in either language, beside the name of the field.
COLUMNS: dict[str, Promise] = {
    "question": gettext_lazy("question"),
    "answer": gettext_lazy("answer"),
    "variants": gettext_lazy("other wordings"),
    "category": gettext_lazy("category"),
    "language": gettext_lazy("language"),
    "status": gettext_lazy("status"),
    "critical": gettext_lazy("critical"),
    "key": gettext_lazy("key"),
}
NEEDED = ("question", "answer")
_ALSO_CALLED = {"variants": ("otras formas", "variantes", "wordings")}
_YES_OR_NO = [(True, gettext_lazy("yes")), (False, gettext_lazy("no")), (True, "x"), (True, "1"), (False, "0")]
FORGOTTEN_AFTER_SECONDS = 86_400


def _names(of: Any) -> set[str]:
    """What something is called in any language, however it is written."""
    names = {slugify(str(of))}
    for language, _name in settings.LANGUAGES:
        with translation.override(language):
            names.add(slugify(str(of)))
    return names


class ChoiceWidget(widgets.Widget):
    """One of some values, by its name in any language; None for an empty cell."""

    def __init__(self, choices: Iterable[tuple[Any, Any]]) -> None:
        super().__init__()
        self._choices = list(choices)

    def clean(self, value: str, row: Any = None, **kwargs: Any) -> Any:
        """
        Raises:
            ValueError: it is none of them.
        """
        if not value.strip():
            return None
        for choice, label in self._choices:
            if slugify(value) in _names(label) | _names(choice):
                return choice
        labels: dict[Any, str] = {}
        for choice, label in self._choices:
            labels.setdefault(choice, str(label))
        raise ValueError(_("Write one of these: %(names)s.") % {"names": ", ".join(labels.values())})

    def render(self, value: Any, obj: Any = None, **kwargs: Any) -> str:
        return "" if value is None else str(next(label for choice, label in self._choices if choice == value))


class WordingsField(fields.Field):
    """An entry's other wordings, a line each. They are saved after the entry."""

    def get_value(self, instance: FaqEntry) -> str:
        wordings = getattr(instance, "read_wordings", None)
        if wordings is None:
            wordings = [each.text for each in instance.paraphrases.all()] if instance.pk else []
        return "\n".join(wordings)

    def save(self, instance: Any, row: dict[str, str], is_m2m: bool = False, **kwargs: Any) -> None:
        """
        Raises:
            ValueError: a wording that cannot be one.
        """
        lines = (" ".join(line.split()) for line in row[self.column_name].splitlines())
        wordings = dict.fromkeys(line for line in lines if line and line != instance.question)
        for wording in wordings:
            try:
                Paraphrase(text=wording).clean_fields(exclude=["entry"])
            except ValidationError as error:
                raise ValueError(f"«{wording}»: {' '.join(error.messages)}") from error
        instance.read_wordings = list(wordings)


class EntryResource(resources.ModelResource):
    """A row an entry. A row with the key or, without one, with the question of an entry changes that entry.

    Columns that are not there, and empty cells of language, status, critical and key, leave an entry as it is. A new
    one is published unless the table says otherwise.
    """

    variants = WordingsField(attribute="paraphrases")
    language = fields.Field("language", widget=ChoiceWidget(Language.choices), saves_null_values=False)
    status = fields.Field("status", widget=ChoiceWidget(FaqEntry.Status.choices), saves_null_values=False)
    critical = fields.Field("is_critical", widget=ChoiceWidget(_YES_OR_NO), saves_null_values=False)

    class Meta:
        model = FaqEntry
        fields = import_order = export_order = tuple(COLUMNS)
        clean_model_instances = True
        skip_unchanged = True
        store_row_values = True

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name, field in self.fields.items():
            field.column_name = str(COLUMNS[name])
        self._rows: dict[int, int] = {}
        self._unread: list[str] = []

    def before_import(self, dataset: tablib.Dataset, **kwargs: Any) -> None:
        """
        Raises:
            BadTable: a column that is needed is not there, or one is there twice.
        """
        names = {
            name: {slugify(other) for other in (name, *_ALSO_CALLED.get(name, ()))} | _names(label)
            for name, label in COLUMNS.items()
        }
        known = [next((each for each in names if slugify(header) in names[each]), None) for header in dataset.headers]
        for name in COLUMNS:
            if known.count(name) > 1 or (name in NEEDED and name not in known):
                text = _("There must be one column “%(name)s”.") if name in NEEDED else _("“%(name)s” is there twice.")
                raise BadTable(text % {"name": COLUMNS[name]})
        self._unread = [header for name, header in zip(known, dataset.headers, strict=True) if name is None and header]
        dataset.headers = [
            str(COLUMNS[name]) if name else header for name, header in zip(known, dataset.headers, strict=True)
        ]

    def after_import(self, dataset: tablib.Dataset, result: Any, **kwargs: Any) -> None:
        result.unread_columns = self._unread

    def before_import_row(self, row: dict[str, str], **kwargs: Any) -> None:
        question, answer, key = (self.fields[name].column_name for name in ("question", "answer", "key"))
        row[question] = " ".join(row[question].split())
        row[answer] = row[answer].strip()
        if not row.get(key, "").strip():
            row.pop(key, None)

    def get_instance(self, instance_loader: Any, row: dict[str, str]) -> FaqEntry | None:
        key, question = (self.fields[name].column_name for name in ("key", "question"))
        named = {"key": row[key].strip()} if key in row else {"question": row[question]}
        return FaqEntry.objects.filter(**named).first()

    def init_instance(self, row: Any = None) -> FaqEntry:
        return FaqEntry(status=FaqEntry.Status.PUBLISHED)

    def validate_instance(
        self, instance: FaqEntry, import_validation_errors: Any = None, validate_unique: bool = True
    ) -> None:
        """With the names of columns where the fields' stand."""
        try:
            super().validate_instance(instance, import_validation_errors, validate_unique)
        except ValidationError as error:
            columns = {field.attribute: field.column_name for field in self.fields.values()}
            raise ValidationError(
                {columns.get(name, name): texts for name, texts in error.message_dict.items()}
            ) from error

    def after_save_instance(self, instance: Any, row: dict[str, str], **kwargs: Any) -> None:
        if hasattr(instance, "read_wordings"):
            replace_paraphrases(instance, instance.read_wordings)

    def after_import_row(self, row: dict[str, str], row_result: Any, **kwargs: Any) -> None:
        """
        Raises:
            ValidationError: a row before is of the same entry.
        """
        number = kwargs["row_number"]
        before = self._rows.setdefault(row_result.object_id, number)
        if before != number:
            raise ValidationError(_("Row %(num)d is of the same question or key.") % {"num": before})

    def export_field(self, field: fields.Field, instance: FaqEntry, **kwargs: Any) -> str:
        return no_formula(str(super().export_field(field, instance, **kwargs)))

    @classmethod
    def get_display_name(cls) -> str:
        return str(FaqEntry._meta.verbose_name_plural)


class TableStorage(BaseStorage):
    """Tables between being looked at and being taken, where every process of this machine finds them."""

    def save(self, data: bytes) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        for old in self._folder.iterdir():
            if time.time() - old.stat().st_mtime > FORGOTTEN_AFTER_SECONDS:
                old.unlink(missing_ok=True)
        self.name = uuid4().hex
        self._path.write_bytes(data)

    def read(self) -> bytes:
        return self._path.read_bytes()

    def remove(self) -> None:
        self._path.unlink(missing_ok=True)

    @property
    def _folder(self) -> Path:
        return Path(settings.ARTIFACTS_DIR) / "tables"

    @property
    def _path(self) -> Path:
        """
        Raises:
            FileNotFoundError: the name, which comes back from a form, is none that was given.
        """
        if not re.fullmatch(r"[0-9a-f]{32}", self.name or ""):
            raise FileNotFoundError(self.name)
        return self._folder / self.name
