"""Changes that were kept without a reason; see faq.models.History."""

from django.db import migrations


def empty_missing_reasons(apps, schema_editor):
    changes = apps.get_model("faq", "HistoricalFaqEntry")
    changes.objects.filter(history_change_reason=None).update(history_change_reason="")


class Migration(migrations.Migration):

    dependencies = [
        ("faq", "0001_initial"),
    ]

    operations = [migrations.RunPython(empty_missing_reasons, migrations.RunPython.noop)]
