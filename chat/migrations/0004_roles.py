"""The roles that a business starts with, as groups. What staff change in them later stays as they leave it."""

from django.apps.registry import Apps
from django.conf import settings
from django.contrib.auth.management import create_permissions
from django.db import migrations
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.utils.translation import gettext, gettext_noop, override

SEES_ENTRIES = ["faq.view_faqentry", "faq.view_paraphrase", "faq.view_offtopicquestion"]
SEES_TRAINING = [
    "training.view_trainingrun",
    "training.view_adapterversion",
    "training.view_activation",
    "training.view_datasetsnapshot",
]
ROLES = {
    gettext_noop("Editor"): [
        *SEES_ENTRIES,
        *(f"faq.{verb}_{model}" for verb in ("add", "change") for model in ("faqentry", "paraphrase", "offtopicquestion")),
        "faq.delete_paraphrase",
        "faq.delete_offtopicquestion",
        "training.view_trainingrun",
    ],
    gettext_noop("Trainer"): [
        *SEES_ENTRIES,
        *SEES_TRAINING,
        "training.add_trainingrun",
        "training.change_trainingrun",
    ],
    gettext_noop("Publisher"): [*SEES_ENTRIES, *SEES_TRAINING, "training.activate_adapterversion"],
    gettext_noop("Agent"): ["faq.view_faqentry", "chat.view_conversation", "chat.view_message"],
}


def create_roles(apps: Apps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    # Permissions come after all migrations otherwise.
    for label in ("faq", "training", "chat"):
        config = apps.get_app_config(label)
        # The stand-in that a migration gets has no models of its own, which is taken for having none at all.
        if not hasattr(config, "models_module"):
            config.models_module = True
        create_permissions(config, apps=apps, verbosity=0)
    Group, Permission = apps.get_model("auth", "Group"), apps.get_model("auth", "Permission")
    for name, permissions in ROLES.items():
        with override(settings.LANGUAGE_CODE):
            group, is_new = Group.objects.get_or_create(name=gettext(name))
        if is_new:
            for permission in permissions:
                label, codename = permission.split(".")
                group.permissions.add(Permission.objects.get(content_type__app_label=label, codename=codename))


class Migration(migrations.Migration):
    dependencies = [
        ("chat", "0003_suggestions"),
        ("faq", "0001_initial"),
        ("training", "0004_critical_permission"),
        ("auth", "0012_alter_user_first_name_max_length"),
        ("contenttypes", "0002_remove_content_type_name"),
    ]

    operations = [migrations.RunPython(create_roles, migrations.RunPython.noop)]
