"""What staff see of conversations, and what deleted ones leave behind. Agents may take conversations out as a file."""

from django.apps.registry import Apps
from django.conf import settings
from django.contrib.auth.management import create_permissions
from django.db import migrations, models
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.utils.translation import gettext, override


def let_agents_export(apps: Apps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    # Permissions come after all migrations otherwise.
    config = apps.get_app_config("chat")
    # The stand-in that a migration gets has no models of its own, which is taken for having none at all.
    if not hasattr(config, "models_module"):
        config.models_module = True
    create_permissions(config, apps=apps, verbosity=0)
    Group, Permission = apps.get_model("auth", "Group"), apps.get_model("auth", "Permission")
    with override(settings.LANGUAGE_CODE):
        # None where staff have given it another name: then they decide.
        agents = Group.objects.filter(name=gettext("Agent")).first()
    if agents is not None:
        agents.permissions.add(Permission.objects.get(content_type__app_label="chat", codename="export_conversation"))


class Migration(migrations.Migration):

    dependencies = [
        ('chat', '0006_trial'),
        ('training', '0007_scheduled_activation'),
    ]

    operations = [
        migrations.CreateModel(
            name='DailyFigures',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('day', models.DateField()),
                ('kind', models.CharField(choices=[('conversations', 'conversations'), ('questions', 'questions'), ('answered', 'answered'), ('suggested', 'asked what was meant'), ('declined', 'not known'), ('stopped', 'stopped by the customer'), ('interrupted', 'interrupted')], max_length=20)),
                ('language', models.CharField(choices=[('es', 'Spanish'), ('en', 'English')], max_length=2)),
                ('version_number', models.PositiveIntegerField(default=0)),
                ('entry_key', models.CharField(blank=True, max_length=200)),
                ('num', models.PositiveIntegerField(default=0)),
            ],
            options={
                'verbose_name': 'figures',
                'verbose_name_plural': 'figures',
                'default_permissions': (),
            },
        ),
        migrations.AlterModelOptions(
            name='conversation',
            options={'ordering': ['-updated_at'], 'permissions': [('export_conversation', 'Can take conversations out as a file')], 'verbose_name': 'conversation', 'verbose_name_plural': 'conversations'},
        ),
        migrations.AddField(
            model_name='message',
            name='first_delta_ms',
            field=models.PositiveIntegerField(null=True, verbose_name='milliseconds to its first words'),
        ),
        migrations.AlterField(
            model_name='conversation',
            name='created_at',
            field=models.DateTimeField(auto_now_add=True, db_index=True, verbose_name='started'),
        ),
        migrations.AlterField(
            model_name='message',
            name='created_at',
            field=models.DateTimeField(auto_now_add=True, db_index=True, verbose_name='sent at'),
        ),
        migrations.AddConstraint(
            model_name='dailyfigures',
            constraint=models.UniqueConstraint(fields=('day', 'kind', 'language', 'version_number', 'entry_key'), name='one_row_per_daily_figure'),
        ),
        migrations.RunPython(let_agents_export, migrations.RunPython.noop),
    ]
