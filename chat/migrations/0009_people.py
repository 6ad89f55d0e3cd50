"""People answer: hand-overs, opening hours, and the right of the agents' group, where it is still there."""

import django.db.models.deletion
import django.utils.timezone
from django.apps.registry import Apps
from django.conf import settings
from django.contrib.auth.management import create_permissions
from django.db import migrations, models
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.utils.translation import gettext, override

RIGHTS = [
    "answer_conversation",
    "view_handover",
    *(f"{verb}_{model}" for verb in ("view", "add", "change", "delete") for model in ("openinghours", "closedday")),
]


def let_agents_answer(apps: Apps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    config = apps.get_app_config("chat")
    # As in 0004_roles.
    if not hasattr(config, "models_module"):
        config.models_module = True
    create_permissions(config, apps=apps, verbosity=0)
    Group, Permission = apps.get_model("auth", "Group"), apps.get_model("auth", "Permission")
    with override(settings.LANGUAGE_CODE):
        agents = Group.objects.filter(name=gettext("Agent")).first()
    if agents is not None:
        agents.permissions.add(*Permission.objects.filter(content_type__app_label="chat", codename__in=RIGHTS))


class Migration(migrations.Migration):

    dependencies = [
        ('chat', '0008_sites_and_feedback'),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name='ClosedDay',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('day', models.DateField(unique=True, verbose_name='day')),
                ('name', models.CharField(blank=True, max_length=100, verbose_name='name')),
            ],
            options={
                'verbose_name': 'closed day',
                'verbose_name_plural': 'closed days',
                'ordering': ['day'],
            },
        ),
        migrations.CreateModel(
            name='OpeningHours',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('weekday', models.PositiveSmallIntegerField(choices=[(0, 'Monday'), (1, 'Tuesday'), (2, 'Wednesday'), (3, 'Thursday'), (4, 'Friday'), (5, 'Saturday'), (6, 'Sunday')], verbose_name='weekday')),
                ('opens', models.TimeField(verbose_name='from')),
                ('closes', models.TimeField(verbose_name='to')),
            ],
            options={
                'verbose_name': 'opening hours',
                'verbose_name_plural': 'opening hours',
                'ordering': ['weekday', 'opens'],
            },
        ),
        migrations.AddField(
            model_name='message',
            name='author',
            field=models.CharField(blank=True, max_length=150, verbose_name='name'),
        ),
        migrations.AlterField(
            model_name='message',
            name='role',
            field=models.CharField(choices=[('user', 'Customer'), ('assistant', 'Assistant'), ('system', 'Notice'), ('agent', 'Person')], max_length=10, verbose_name='who wrote'),
        ),
        migrations.CreateModel(
            name='Handover',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('reference', models.CharField(max_length=12, unique=True, verbose_name='number')),
                ('reason', models.CharField(choices=[('asked', 'Asked for a person'), ('unclear', 'The assistant did not know')], max_length=10, verbose_name='reason')),
                ('state', models.CharField(choices=[('waiting', 'Waiting'), ('taken', 'With a person'), ('returned', 'Back with the assistant'), ('closed', 'Closed')], default='waiting', max_length=10, verbose_name='state')),
                ('language', models.CharField(choices=[('es', 'Spanish'), ('en', 'English')], max_length=2, verbose_name='language')),
                ('email', models.EmailField(blank=True, max_length=254, verbose_name='e-mail address')),
                ('asked_at', models.DateTimeField(default=django.utils.timezone.now, verbose_name='asked at')),
                ('taken_at', models.DateTimeField(null=True, verbose_name='taken at')),
                ('returned_at', models.DateTimeField(null=True, verbose_name='returned at')),
                ('closed_at', models.DateTimeField(null=True, verbose_name='closed at')),
                ('told_to_wait_at', models.DateTimeField(null=True)),
                ('customer_seen_at', models.DateTimeField(default=django.utils.timezone.now)),
                ('agent_seen_at', models.DateTimeField(null=True)),
                ('closed_by', models.ForeignKey(null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='+', to=settings.AUTH_USER_MODEL, verbose_name='closed by')),
                ('conversation', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='handovers', to='chat.conversation', verbose_name='conversation')),
                ('taken_by', models.ForeignKey(null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='+', to=settings.AUTH_USER_MODEL, verbose_name='with')),
            ],
            options={
                'verbose_name': 'hand-over',
                'verbose_name_plural': 'hand-overs',
                'ordering': ['-asked_at'],
                'permissions': [('answer_conversation', 'Can answer customers who ask for a person')],
                'constraints': [models.UniqueConstraint(condition=models.Q(('state__in', ['waiting', 'taken'])), fields=('conversation',), name='one_open_handover_per_conversation')],
            },
        ),
        migrations.RunPython(let_agents_answer, migrations.RunPython.noop),
    ]
