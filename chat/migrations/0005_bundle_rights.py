"""Whoever publishes may take versions out and bring them in, where the group is still there."""

from django.apps.registry import Apps
from django.conf import settings
from django.contrib.auth.management import create_permissions
from django.db import migrations
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.utils.translation import gettext, override

RIGHTS = ["export_adapterversion", "import_adapterversion"]


def grant_rights(apps: Apps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    config = apps.get_app_config("training")
    # As in 0004_roles.
    if not hasattr(config, "models_module"):
        config.models_module = True
    create_permissions(config, apps=apps, verbosity=0)
    Group, Permission = apps.get_model("auth", "Group"), apps.get_model("auth", "Permission")
    with override(settings.LANGUAGE_CODE):
        publisher = Group.objects.filter(name=gettext("Publisher")).first()
    if publisher is not None:
        publisher.permissions.add(
            *Permission.objects.filter(content_type__app_label="training", codename__in=RIGHTS)
        )


class Migration(migrations.Migration):
    dependencies = [("chat", "0004_roles"), ("training", "0009_bundles")]

    operations = [migrations.RunPython(grant_rights, migrations.RunPython.noop)]
