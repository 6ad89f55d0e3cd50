"""What deleted conversations leave to their trial, hand-overs by reason, names for customers, and agents who teach."""

import django.db.models.deletion
from django.apps.registry import Apps
from django.conf import settings
from django.contrib.auth.management import create_permissions
from django.db import migrations, models
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.utils.translation import gettext, override


def let_agents_teach(apps: Apps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    """Whoever reads what customers ask may make it another wording of a published answer.

    That took the right to change entries before; whoever has it, a group or a person, goes on teaching. Reversing the
    migration takes the right from nobody, since it cannot be told who had it before.
    """
    config = apps.get_app_config("faq")
    # As in 0004_roles.
    if not hasattr(config, "models_module"):
        config.models_module = True
    create_permissions(config, apps=apps, verbosity=0)
    Group, Permission = apps.get_model("auth", "Group"), apps.get_model("auth", "Permission")
    with override(settings.LANGUAGE_CODE):
        agents = Group.objects.filter(name=gettext("Agent")).first()
    rights = Permission.objects.filter(content_type__app_label="faq")
    teaches, edits = rights.get(codename="add_paraphrase"), rights.get(codename="change_faqentry")
    if agents is not None:
        agents.permissions.add(teaches)
    teaches.group_set.add(*edits.group_set.all())
    teaches.user_set.add(*edits.user_set.all())


class Migration(migrations.Migration):

    dependencies = [
        ('chat', '0009_people'),
        ('training', '0012_taken'),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.AlterField(
            model_name='dailyfigures',
            name='kind',
            field=models.CharField(choices=[('conversations', 'conversations'), ('questions', 'questions'), ('answered', 'answered'), ('suggested', 'asked what was meant'), ('declined', 'not known'), ('stopped', 'stopped by the customer'), ('interrupted', 'interrupted'), ('up', 'rated as helpful'), ('down', 'rated as not helpful'), ('persons', 'asked for a person'), ('asked', 'handed over: asked for'), ('unclear', 'handed over: not known'), ('staff', 'handed over: staff stepped in'), ('taken', 'taken by staff')], max_length=20),
        ),
        migrations.AlterField(
            model_name='handover',
            name='reason',
            field=models.CharField(choices=[('asked', 'Asked for a person'), ('unclear', 'The assistant did not know'), ('staff', 'A person stepped in')], max_length=10, verbose_name='reason'),
        ),
        migrations.CreateModel(
            name='PublicName',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('name', models.CharField(max_length=40, verbose_name='name that customers read')),
                ('user', models.OneToOneField(on_delete=django.db.models.deletion.CASCADE, related_name='+', to=settings.AUTH_USER_MODEL)),
            ],
            options={
                'default_permissions': (),
            },
        ),
        migrations.CreateModel(
            name='TrialFigures',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('is_challenger', models.BooleanField()),
                ('num_conversations', models.PositiveIntegerField(default=0)),
                ('num_conversations_declined', models.PositiveIntegerField(default=0)),
                ('num_conversations_failed', models.PositiveIntegerField(default=0)),
                ('num_answers', models.PositiveIntegerField(default=0)),
                ('num_answered', models.PositiveIntegerField(default=0)),
                ('num_suggested', models.PositiveIntegerField(default=0)),
                ('num_declined', models.PositiveIntegerField(default=0)),
                ('num_cancelled', models.PositiveIntegerField(default=0)),
                ('num_failed', models.PositiveIntegerField(default=0)),
                ('num_unhelpful', models.PositiveIntegerField(default=0)),
                ('num_decided', models.PositiveIntegerField(default=0)),
                ('sum_confidence', models.FloatField(default=0)),
                ('trial', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='figures', to='training.trial')),
            ],
            options={
                'default_permissions': (),
                'constraints': [models.UniqueConstraint(fields=('trial', 'is_challenger'), name='one_row_per_side_of_a_trial')],
            },
        ),
        migrations.RunPython(let_agents_teach, migrations.RunPython.noop),
    ]
