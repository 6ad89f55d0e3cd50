"""What staff teach while they try versions: a question that was asked becomes another wording of an entry."""

from __future__ import annotations

from django.core.exceptions import ValidationError
from django.utils.translation import gettext as _
from simple_history.utils import update_change_reason

from faq.models import FaqEntry, Paraphrase
from faq.publication import current_publication
from training.lm.augment import plain


def add_wording(entry: FaqEntry, text: str) -> Paraphrase:
    """Add another wording to a published entry; the chat finds it by that at once, the next training learns it.

    Raises:
        ValidationError: it is no question, too long, or leads to an entry already, but for case, accents and marks.
    """
    wording = Paraphrase(entry=entry, text=" ".join(text.split()))
    wording.full_clean(validate_unique=False, validate_constraints=False)
    for published in current_publication().entries:
        if plain(wording.text) in map(plain, published.wordings):
            _refuse(entry, published.key, published.question)
    wording, is_new = Paraphrase.objects.get_or_create(entry=entry, text=wording.text)
    if not is_new:
        _refuse(entry, entry.key, entry.question)
    # The entry's history says who added to it.
    entry.save(update_fields=["updated_at"])
    update_change_reason(entry, _("A wording was added."))
    return wording


def _refuse(entry: FaqEntry, key: str, question: str) -> None:
    if key == entry.key:
        raise ValidationError(_("This is a wording of “%(question)s” already.") % {"question": question})
    raise ValidationError(
        _("This is a wording of “%(question)s”. Take it out there before it leads elsewhere.") % {"question": question}
    )
