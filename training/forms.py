from __future__ import annotations

from datetime import datetime

from django import forms
from django.utils import timezone
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _


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
