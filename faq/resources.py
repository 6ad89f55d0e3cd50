"""Entries as a table that staff take out, work on in a spreadsheet and bring back (django-import-export)."""

from __future__ import annotations

import re
import time
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import tablib
from django.conf import settings
from django.core.exceptions import ValidationError
from django.utils import translation
from django.utils.functional import Promise
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.text import slugify
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from import_export import fields, resources, widgets
from import_export.results import Result
from import_export.tmp_storages import BaseStorage

from faq.importing import replace_paraphrases
from faq.models import FaqEntry, Language, Paraphrase
from faq.spreadsheets import ROW_NUMBER, BadTable, no_formula, plain_lines

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


def _heard(question: str) -> str:
    """What is left of a question when case, accents and the signs around it do not count; "moño" is no "mono"."""
    letters = unicodedata.normalize("NFC", question.casefold())
    plain = "".join(letter if letter == "ñ" else unicodedata.normalize("NFD", letter)[0] for letter in letters)
    return " ".join(re.sub(r"[¿?¡!.,;:]", " ", plain).split())


class ChoiceWidget(widgets.Widget):
    """One of some values, by its name in any language."""

    def __init__(self, choices: Iterable[tuple[Any, Any]]) -> None:
        super().__init__()
        self._choices = list(choices)

    def clean(self, value: str, row: Any = None, **kwargs: Any) -> Any:
        """
        Raises:
            ValueError: it is none of them.
        """
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
        known = self.get_value(instance).split("\n")
        parts = [
            part
            for line in row[self.column_name].split("\n")
            for part in ([line] if line.strip() in known else line.split("|"))
        ]
        lines = (" ".join(part.split()) for part in parts)
        wordings = dict.fromkeys(line for line in lines if line and line != instance.question)
        for wording in wordings:
            try:
                Paraphrase(text=wording).clean_fields(exclude=["entry"])
            except ValidationError as error:
                raise ValueError(f"«{wording}»: {' '.join(error.messages)}") from error
        instance.read_wordings = list(wordings)


class EntryDiff(resources.Diff):
    """Line by line: a letter by letter comparison of long answers takes seconds each."""

    def as_html(self) -> list[SafeString]:
        return [
            format_html_join(SafeString("<br>"), "{}", ((line,) for line in _marked(old if not self.new else "", new)))
            for old, new in zip(self.left, self.right, strict=True)
        ]


def _marked(old: str, new: str) -> Iterator[SafeString]:
    before, after = str(old or "").split("\n"), str(new or "").split("\n")
    for line in before:
        if line and line not in after:
            yield format_html("<del>{}</del>", line)
    for line in after:
        yield format_html("{}" if line in before else "<ins>{}</ins>", line)


class TableResult(Result):
    """Bad rows are numbered as in the spreadsheet."""

    def append_invalid_row(self, number: int, row: dict[str, str], validation_error: ValidationError) -> None:
        super().append_invalid_row(int(row[ROW_NUMBER]), row, validation_error)


class EntryResource(resources.ModelResource):
    """A row an entry. One with the key or, without one, with the question of an entry changes that entry.

    Of entries that are retired nobody hears, so those are found by their key alone. A new entry is published unless the
    table says otherwise. Columns that are not there and empty cells leave an entry as it is.
    """

    variants = WordingsField(attribute="paraphrases")
    language = fields.Field("language", widget=ChoiceWidget(Language.choices))
    status = fields.Field("status", widget=ChoiceWidget(FaqEntry.Status.choices))
    critical = fields.Field("is_critical", widget=ChoiceWidget(_YES_OR_NO))

    class Meta:
        model = FaqEntry
        fields = import_order = export_order = tuple(COLUMNS)
        clean_model_instances = True
        skip_unchanged = True

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name, field in self.fields.items():
            field.column_name = str(COLUMNS[name])
        self._row_of: dict[int, str] = {}
        self._asked: defaultdict[str, list[int]] = defaultdict(list)
        self._unread: list[str] = []

    def get_result_class(self) -> type[TableResult]:
        return TableResult

    def get_diff_class(self) -> type[EntryDiff]:
        return EntryDiff

    def before_import(self, dataset: tablib.Dataset, **kwargs: Any) -> None:
        """
        Raises:
            BadTable: a column that is needed is not there, or one is there twice.
        """
        names = {
            name: {slugify(other) for other in (name, *_ALSO_CALLED.get(name, ()))} | _names(label)
            for name, label in COLUMNS.items()
        }
        heard = FaqEntry.objects.exclude(status=FaqEntry.Status.RETIRED).values_list("pk", "question")
        for pk, question in heard:
            self._asked[_heard(question)].append(pk)
        headers = dataset.headers
        known = [next((each for each in names if slugify(header) in names[each]), None) for header in headers]
        for name in COLUMNS:
            if known.count(name) > 1 or (name in NEEDED and name not in known):
                # Otherwise each of the rows would be tried.
                dataset.wipe()
                text = _("There must be one column “%(name)s”.") if name in NEEDED else _("“%(name)s” is there twice.")
                raise BadTable(text % {"name": COLUMNS[name]})
        named = list(zip(known, headers, strict=True))
        self._unread = [header for name, header in named if name is None and header not in ("", ROW_NUMBER)]
        dataset.headers = [str(COLUMNS[name]) if name else header for name, header in named]

    def after_import(self, dataset: tablib.Dataset, result: Any, **kwargs: Any) -> None:
        result.unread_columns = self._unread

    def before_import_row(self, row: dict[str, str], **kwargs: Any) -> None:
        columns = {name: field.column_name for name, field in self.fields.items()}
        for name, column in columns.items():
            if column in row:
                row[column] = row[column].strip()
                if not row[column] and name not in NEEDED:
                    del row[column]
        row[columns["question"]] = " ".join(row[columns["question"]].split())

    def get_instance(self, instance_loader: Any, row: dict[str, str]) -> FaqEntry | None:
        """
        Raises:
            ValidationError: it is not clear which one it is.
        """
        key, question = (self.fields[name].column_name for name in ("key", "question"))
        named = FaqEntry.objects.filter(key=row.get(key)).first()
        if named is not None:
            # It never changes.
            del row[key]
            return named
        heard = _heard(row[question])
        # As they are now: rows before may have changed them.
        known = FaqEntry.objects.exclude(status=FaqEntry.Status.RETIRED).filter(pk__in=self._asked[heard])
        asked = [each for each in known if _heard(each.question) == heard]
        asked = [each for each in asked if each.question == row[question]] or asked
        if key in row and asked:
            text = _("An answer with the key “%(key)s” has this question already.")
            raise ValidationError(text % {"key": asked[0].key})
        if len(asked) > 1:
            keys = ", ".join(each.key for each in asked)
            raise ValidationError(
                _("Several answers have this question. Name one by its key: %(keys)s.") % {"keys": keys}
            )
        return asked[0] if asked else None

    def init_instance(self, row: Any = None) -> FaqEntry:
        return FaqEntry(status=FaqEntry.Status.PUBLISHED)

    def skip_row(self, instance: Any, original: Any, row: Any, import_validation_errors: Any = None) -> bool:
        """Whether nothing would change. The order of the wordings says nothing, nor does how lines end."""
        if import_validation_errors or original.pk is None:
            return False
        return all(self._told(field, instance) == self._told(field, original) for field in self.fields.values())

    def _told(self, field: fields.Field, instance: FaqEntry) -> set[str] | str:
        text = plain_lines(str(field.export(instance)))
        return set(text.split("\n")) if isinstance(field, WordingsField) else text

    def validate_instance(
        self, instance: FaqEntry, import_validation_errors: Any = None, validate_unique: bool = True
    ) -> None:
        """With the names of columns where the fields' stand."""
        try:
            super().validate_instance(instance, import_validation_errors, validate_unique)
        except ValidationError as error:
            columns = {field.attribute: field.column_name for field in self.fields.values()}
            problems = {columns.get(name, name): texts for name, texts in error.message_dict.items()}
            raise ValidationError(problems) from error

    def after_save_instance(self, instance: Any, row: dict[str, str], **kwargs: Any) -> None:
        known = self._asked[_heard(instance.question)]
        if instance.pk not in known:
            known.append(instance.pk)
        if hasattr(instance, "read_wordings"):
            replace_paraphrases(instance, instance.read_wordings)

    def after_import_row(self, row: dict[str, str], row_result: Any, **kwargs: Any) -> None:
        """
        Raises:
            ValidationError: a row before is of the same entry.
        """
        number = row[ROW_NUMBER]
        before = self._row_of.setdefault(row_result.object_id, number)
        if before != number:
            raise ValidationError(_("Row %(num)s is of the same question or key.") % {"num": before})

    def export_field(self, field: fields.Field, instance: FaqEntry, **kwargs: Any) -> str:
        return no_formula(plain_lines(str(super().export_field(field, instance, **kwargs))))

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
