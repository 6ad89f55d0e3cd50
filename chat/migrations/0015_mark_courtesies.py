"""Apart from the column, whose lock nobody is to wait for while all rows are read."""

from typing import Any

from django.db import migrations


def mark_courtesies(apps: Any, schema_editor: Any) -> None:
    """Replies that were decided, not declined, and say no entry."""
    messages = apps.get_model("chat", "Message").objects.filter(role="assistant")
    messages.filter(is_declined=False, entry_key="", coverage__isnull=False).update(is_courtesy=True)


class Migration(migrations.Migration):

    dependencies = [
        ('chat', '0014_courtesies'),
    ]

    operations = [migrations.RunPython(mark_courtesies, migrations.RunPython.noop)]
