from __future__ import annotations

import csv
import io
import re
from datetime import timedelta

import pytest
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from pytest_django import Settings

from faq.models import FaqEntry, Paraphrase
from training import runs, versions
from training.models import Activation, AdapterVersion, ExamAnswer, RunEvent, TrainingRun
from training.tests.conftest import Answers, MakeVersion

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _nothing_to_load(settings: Settings) -> None:
    """The versions here have no adapters that could answer; test_going_live.py has real ones."""
    settings.SMOKE_TEST_QUESTIONS = 0


@pytest.fixture
def owner(client: Client, olga: User) -> Client:
    client.force_login(olga)
    return client


def clerk(*permissions: str) -> User:
    """Clara works in the shop; she may do what she is given."""
    user = User.objects.create_user("clara", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    return user


def test_the_front_page_tells_an_empty_shop_what_to_do(owner: Client) -> None:
    assert "No version is live yet." in owner.get("/admin/").content.decode()
    page = owner.get("/admin/training/trainingrun/prepare/").content.decode()
    assert "At least 2 published answers are needed; there are 0." in page
    assert "<fieldset disabled>" in page


def test_the_front_page_says_what_is_live_and_what_changed(
    owner: Client, shop: None, make_version: MakeVersion
) -> None:
    version = make_version()
    versions.activate(version)

    page = owner.get("/admin/").content.decode()

    assert f"<strong>{version}</strong> is live since" in page
    assert "1 answer learned · 1 changed since · 2 new" in page


def test_the_front_page_says_that_nothing_is_published(owner: Client, shop: None, make_version: MakeVersion) -> None:
    versions.activate(make_version())
    FaqEntry.objects.update(status="retired")

    page = owner.get("/admin/").content.decode()

    assert "Nothing is published" in page
    assert "room-dot" not in page
    assert "no need to train" not in page


def test_the_front_page_advises(owner: Client, shop: None, make_version: MakeVersion) -> None:
    version = make_version()
    versions.activate(version)
    assert "Nothing false reaches customers meanwhile. A training teaches" in owner.get("/admin/").content.decode()

    now = timezone.now()
    TrainingRun.objects.filter(pk=version.run.pk).update(
        preset="normal", max_steps=80, started_at=now - timedelta(minutes=3), ended_at=now
    )
    FaqEntry.objects.filter(key="hours").update(answer="Cerramos a las nueve.")
    page = owner.get("/admin/").content.decode()
    assert "1 answer has another text, which is said already: nothing false reaches customers." in page
    assert re.search(r"It takes about \d+ minutes", page)

    FaqEntry.objects.exclude(key="hours").delete()
    entry = FaqEntry.objects.get(key="hours")
    entry.paraphrases.exclude(text="horario de cierre").delete()
    FaqEntry.objects.filter(key="hours").update(answer="Cerramos a las ocho.")
    assert "Nothing has changed since: there is no need to train." in owner.get("/admin/").content.decode()


def test_train_now_queues_a_run_for_who_asked(
    owner: Client, shop: None, olga: User, django_capture_on_commit_callbacks: object
) -> None:
    response = owner.post("/admin/training/trainingrun/train-now/", {"preset": "quick"})

    run = TrainingRun.objects.get()
    assert response.headers["Location"] == f"/admin/training/trainingrun/{run.pk}/change/"
    assert (run.status, run.preset, run.requested_by) == ("queued", "quick", olga)
    assert "1 training goes first." in owner.get("/admin/training/trainingrun/prepare/").content.decode()
    owner.post("/admin/training/trainingrun/train-now/", {"preset": "thorough"})
    assert [each.preset for each in runs.waiting()] == ["quick", "thorough"]


def test_the_queue_is_shown_with_who_asked_and_can_be_left(owner: Client, olga: User) -> None:
    running = runs.start_in_foreground()
    second, third = (runs.create_run(preset, requested_by=olga) for preset in ("quick", "thorough"))

    for url in ("/admin/", f"/admin/training/trainingrun/{third.pk}/change/"):
        page = owner.get(url).content.decode()
        rows = [" ".join(re.sub(r"<[^>]+>", " ", row).split()) for row in re.findall(r"<li.*?</li>", page, re.DOTALL)]
        queue = [row for row in rows if "Cancel #" in row]
        assert [row.split()[:3] for row in queue] == [["1.", str(second), "Quick"], ["2.", str(third), "Thorough"]]
        assert all("· olga" in row for row in queue)
    status = owner.get("/admin/training/trainingrun/status.json").json()
    assert (status["run"]["id"], status["queue"]) == (running.pk, [second.pk, third.pk])

    response = owner.post(f"/admin/training/trainingrun/{second.pk}/cancel/", follow=True)
    assert "The training is cancelled." in response.content.decode()
    assert list(runs.waiting()) == [third]


def test_who_may_only_look_sees_the_queue_and_no_button(client: Client, olga: User) -> None:
    runs.create_run(requested_by=olga)
    client.force_login(clerk("view_trainingrun"))

    page = client.get("/admin/").content.decode()

    assert "· olga" in page
    assert "/cancel/" not in page


def test_a_full_queue_takes_no_more(owner: Client, shop: None) -> None:
    for _ in range(runs.MAX_WAITING):
        runs.create_run()

    page = owner.get("/admin/training/trainingrun/prepare/").content.decode()
    assert "<fieldset disabled>" in page
    assert "As many trainings wait as may." in page
    response = owner.post("/admin/training/trainingrun/train-now/", {"preset": "quick", "lora_r": "8"})
    assert "10 trainings are waiting already." in response.content.decode()
    assert 'name="lora_r" value="8"' in response.content.decode(), "nothing typed is lost"
    assert runs.waiting().count() == runs.MAX_WAITING


def test_a_trainer_changes_parameters_and_the_run_says_so(owner: Client, shop: None, settings: Settings) -> None:
    settings.TRAINING_PARAMETERS = {"learning_rate": 0.001}
    page = owner.get("/admin/training/trainingrun/prepare/").content.decode()
    assert "If left empty: Quick: 3, Normal: 6, Thorough: 12, Only what has changed: 8." in page
    assert "If left empty: 0.001." in page, "a preset is what the settings make of it"

    typed = {"preset": "quick", "lora_r": "8", "lora_dropout": "0", "cut_completions": "no", "seed": ""}
    owner.post("/admin/training/trainingrun/train-now/", typed)

    run = TrainingRun.objects.get()
    usual = runs.preset_config("quick").to_dict()
    assert run.config == {**usual, "lora_r": 8, "lora_dropout": 0.0, "cut_completions": False}
    page = " ".join(
        re.sub(r"<[^>]+>", " ", owner.get(f"/admin/training/trainingrun/{run.pk}/change/").content.decode()).split()
    )
    assert (
        "Other than “Quick” usually is: lora_r 8 (32) , lora_dropout 0.0 (0.05) , cut_completions False (True)" in page
    )


def test_a_run_as_its_preset_says_nothing_of_parameters(owner: Client, shop: None) -> None:
    owner.post("/admin/training/trainingrun/train-now/", {"preset": "thorough", "lora_r": "", "cut_completions": ""})

    run = TrainingRun.objects.get()
    assert run.config == runs.preset_config("thorough").to_dict()
    page = owner.get(f"/admin/training/trainingrun/{run.pk}/change/").content.decode()
    assert "Other than" not in page


BAD_VALUES = [
    ("lora_r", "0", "It must be greater than 0."),
    ("lora_r", "ocho", "Enter a whole number."),
    ("lora_dropout", "1", "It must be at least 0 and less than 1."),
    ("learning_rate", "-1", "It must be greater than 0."),
    ("learning_rate", "nan", "Enter a number."),
    ("weight_decay", "-0.5", "It must be at least 0."),
    ("max_steps", str(2**40), "Ensure this value is less than or equal to"),
    ("cut_completions", "perhaps", "Select a valid choice."),
]


@pytest.mark.parametrize(("name", "value", "error"), BAD_VALUES)
def test_a_bad_parameter_is_told_at_its_field_and_the_others_stay(
    owner: Client, shop: None, name: str, value: str, error: str
) -> None:
    typed = {"preset": "thorough", "num_train_epochs": "7", "seed": "<b>", name: value}

    page = owner.post("/admin/training/trainingrun/train-now/", typed).content.decode()

    field = page[page.index(f'<label for="id_{name}"') :].split("<label")[1]
    assert error in field
    assert 'name="num_train_epochs" value="7"' in page
    assert 'value="&lt;b&gt;"' in page
    assert '<details class="room-advanced" open>' in page
    assert re.search(r'value="thorough"\s+checked', page)
    assert not TrainingRun.objects.exists()


def test_how_the_base_is_quantised_cannot_be_changed(owner: Client, shop: None) -> None:
    """Every version is served on the same 4-bit base."""
    owner.post("/admin/training/trainingrun/train-now/", {"preset": "quick", "load_in_4bit": "no", "claim": "x"})

    assert TrainingRun.objects.get().config == runs.preset_config("quick").to_dict()


def test_a_run_page_tells_what_happened_after_it_has_ended_too(owner: Client, olga: User) -> None:
    run = runs.start_in_foreground()
    runs.record(run, RunEvent.Code.STEP, step=40, max_steps=120, loss=0.61)
    url = f"/admin/training/trainingrun/{run.pk}/change/"
    time = r'<time datetime="[^"]+">[^<]+</time>'
    step = rf'<li data-line="\d+">{time} Learning: step 40 of 120, 54 % sure of the right words</li>'
    assert re.search(step, owner.get(url).content.decode())
    assert 'role="log"' in owner.get(url).content.decode()

    owner.post(f"/admin/training/trainingrun/{run.pk}/cancel/")
    runs.cancel(run)

    page = owner.get(url).content.decode()
    assert re.search(step, page)
    assert page.index("Learning: step 40") < page.index("Cancelled by olga") < page.index("Ended without a version")


def test_train_now_refuses_a_way_that_does_not_exist(owner: Client, shop: None) -> None:
    response = owner.post("/admin/training/trainingrun/train-now/", {"preset": "<script>"}, follow=True)

    assert "Choose one of the ways to train." in response.content.decode()
    assert not TrainingRun.objects.exists()


def test_a_run_page_shows_progress_and_survives_a_reload(owner: Client) -> None:
    run = runs.start_in_foreground()
    runs.progress(run, phase=TrainingRun.Phase.TRAINING, step=50, max_steps=200)

    page = owner.get(f"/admin/training/trainingrun/{run.pk}/change/").content.decode()
    status = owner.get("/admin/training/trainingrun/status.json").json()["run"]

    assert 'value="30"' in page
    assert "50 / 200" in page
    assert (status["percent"], status["is_active"], status["phase_text"]) == (30, True, "Learning")


def test_a_failed_run_says_why_and_folds_its_trace(owner: Client) -> None:
    run = runs.start_in_foreground()
    runs.fail(run, "Not enough memory.", traceback="Traceback <most recent>")

    page = owner.get(f"/admin/training/trainingrun/{run.pk}/change/").content.decode()

    assert "Not enough memory." in page
    assert "<details>" in page
    assert "Traceback &lt;most recent&gt;" in page


def test_a_waiting_run_is_cancelled_from_its_page(owner: Client) -> None:
    run = runs.create_run()

    owner.post(f"/admin/training/trainingrun/{run.pk}/cancel/")

    run.refresh_from_db()
    assert run.status == "cancelled"
    assert (
        "Nothing changed for customers" in owner.get(f"/admin/training/trainingrun/{run.pk}/change/").content.decode()
    )


def test_activation_shows_what_would_change_before_it_does_it(
    owner: Client, olga: User, make_version: MakeVersion
) -> None:
    first, second = make_version(), make_version()
    versions.activate(first)
    url = f"/admin/training/adapterversion/{second.pk}/activate/"

    page = owner.get(url).content.decode()
    assert f"<strong>{first}</strong>" in page
    assert "80 %" in page
    assert versions.live_version() == first

    owner.post(url, {"note": "Prices of May"})
    newest = Activation.objects.first()
    assert newest is not None
    assert (newest.version, newest.activated_by, newest.note) == (second, olga, "Prices of May")


def test_going_back_takes_one_click(owner: Client, make_version: MakeVersion) -> None:
    first, second = make_version(), make_version()
    versions.activate(first)
    versions.activate(second)
    assert f"Roll back to {first}" in owner.get("/admin/").content.decode()

    url, button = "/admin/training/adapterversion/roll-back/", {"version": first.name}
    response = owner.post(url, button, follow=True)

    assert versions.live_version() == first
    assert f"{first} is live again." in response.content.decode()
    again = owner.post(url, button, follow=True)
    assert "There is no earlier version" in again.content.decode()


def test_a_version_whose_files_are_gone_is_refused_in_words(owner: Client, make_version: MakeVersion) -> None:
    version = make_version()
    (version.path / versions.WEIGHTS).unlink()

    response = owner.post(f"/admin/training/adapterversion/{version.pk}/activate/", follow=True)

    assert "are missing" in response.content.decode()
    assert versions.live_version() is None


def test_a_version_page_lists_its_exam_wrong_answers_first(owner: Client, make_version: MakeVersion) -> None:
    version = make_version()
    values = {"exam": version.exam, "confidence": 0.9, "coverage": 1.0, "is_declined": False}
    ExamAnswer.objects.create(question="la buena", expected_key="hours", answered_key="hours", **values)
    ExamAnswer.objects.create(question="<b>la mala</b>", expected_key="hours", answered_key="pay", **values)

    page = owner.get(f"/admin/training/adapterversion/{version.pk}/change/").content.decode()

    assert page.index("&lt;b&gt;la mala") < page.index("la buena")
    assert owner.get("/admin/training/adapterversion/").status_code == 200
    assert owner.get("/admin/training/trainingrun/").status_code == 200
    assert owner.get("/admin/training/activation/").status_code == 200


def test_a_version_page_names_entries_by_their_questions(
    owner: Client, shop: None, make_version: MakeVersion, answered: Answers
) -> None:
    version = make_version()
    answered(version, como_pago=("pay", "return"), cierran=("hours", "hours"), un_chiste=(None, "forgotten"))
    FaqEntry.objects.filter(key="pay").update(question="¿Cómo se <b>paga</b>?")
    FaqEntry.objects.filter(key="hours").delete()
    url = f"/admin/training/adapterversion/{version.pk}/change/"

    page = owner.get(url).content.decode()

    cells = re.findall(r"<td>(.*?)</td>", page[page.index('id="answers"') :], re.DOTALL)
    shown = [re.sub(r"<.*?>", "", cell).strip() for cell in cells]
    assert [shown[row * 4 : row * 4 + 2] for row in range(3)] == [
        ["¿Cómo se &lt;b&gt;paga&lt;/b&gt;?", "¿Puedo devolver un producto?"],
        ["–", "forgotten"],
        ["¿A qué hora cierran?", "¿A qué hora cierran?"],
    ], "as it reads now; as it was learned; the key of one that nothing is known of"
    (version.path / "answers.jsonl").unlink()
    assert "¿A qué hora cierran?" not in owner.get(url).content.decode()


def test_a_version_page_asks_the_database_as_often_for_a_long_exam_as_for_a_short_one(
    owner: Client, shop: None, make_version: MakeVersion, answered: Answers
) -> None:
    version = make_version()
    answered(version, como_pago=("pay", "return"))
    url = f"/admin/training/adapterversion/{version.pk}/change/"
    owner.get(url)
    with CaptureQueriesContext(connection) as few:
        owner.get(url)
    answered(version, **{f"otra_{number}": ("pay", "return") for number in range(50)})
    with CaptureQueriesContext(connection) as many:
        owner.get(url)
    assert len(many) == len(few)


def test_a_page_of_nothing_is_no_error_of_ours(owner: Client) -> None:
    for model in ("trainingrun", "adapterversion"):
        assert owner.get(f"/admin/training/{model}/abc/change/").status_code == 302
        assert owner.get(f"/admin/training/{model}/999/change/").status_code == 302


def test_nobody_changes_what_only_the_training_writes(owner: Client, make_version: MakeVersion) -> None:
    version = make_version()
    versions.activate(version)
    for model, pk in (
        ("adapterversion", version.pk),
        ("trainingrun", version.run.pk),
        ("activation", Activation.objects.get().pk),
    ):
        assert owner.get(f"/admin/training/{model}/add/").status_code == 403
        assert owner.post(f"/admin/training/{model}/{pk}/change/", {"number": 9}).status_code == 403
        assert owner.post(f"/admin/training/{model}/{pk}/delete/", {"post": "yes"}).status_code == 403


def test_the_page_before_a_training_shows_changes_findings_and_time(
    owner: Client, shop: None, make_version: MakeVersion
) -> None:
    version = make_version()
    versions.activate(version)
    Paraphrase.objects.create(entry=FaqEntry.objects.get(key="pay"), text="pagar <b>ya</b>, soy ana@ejemplo.com")

    page = owner.get("/admin/training/trainingrun/prepare/").content.decode()

    assert f"Compared with <strong>{version}</strong>" in page
    assert "pagar &lt;b&gt;ya&lt;/b&gt;, soy ana@ejemplo.com" in page
    assert "Wordings hold personal data." in page
    assert len(re.findall(ENTRY_PAGE, page)) >= 3, "each entry named is one click away"
    assert "<fieldset >" in page, "advice does not keep anybody from training"


def test_changes_can_be_taken_to_a_spreadsheet(owner: Client, shop: None, make_version: MakeVersion) -> None:
    url = "/admin/training/trainingrun/differences.csv"
    assert owner.get(url).status_code == 404, "nothing is live to compare with"
    versions.activate(make_version())
    FaqEntry.objects.filter(key="pay").update(answer="=1+1")

    text = owner.get(url).content.decode("utf-8-sig")

    rows = {row["key"]: row for row in csv.DictReader(io.StringIO(text))}
    assert rows["pay"]["change"] == "new"
    assert rows["pay"]["answer now"] == "'=1+1", "a spreadsheet must not calculate what somebody typed"
    assert "hasta qué hora abren" in rows["hours"]["wordings added"]


def test_what_must_be_mended_is_not_trained(owner: Client, shop: None) -> None:
    FaqEntry.objects.exclude(key="hours").delete()

    response = owner.post("/admin/training/trainingrun/train-now/", {"preset": "quick", "seed": "7"})

    assert 'name="seed" value="7"' in response.content.decode(), "nothing typed is lost"
    assert "At least 2 published answers are needed; there are 1." in response.content.decode()
    assert not TrainingRun.objects.exists()


ENTRY_PAGE = r"/admin/faq/faqentry/\d+/change/"


@pytest.fixture
def breaking(shop: None, make_version: MakeVersion, answered: Answers) -> AdapterVersion:
    """A version that declines a critical question which the live one answers."""
    FaqEntry.objects.filter(key="hours").update(is_critical=True)
    live, breaking = make_version(), make_version()
    answered(live, cierran=("hours", "hours"), pagar=("pay", None))
    answered(breaking, cierran=("hours", None), pagar=("pay", "pay"), chiste=(None, "pay"))
    versions.activate(live)
    return breaking


def test_the_page_before_activation_shows_what_breaks(owner: Client, breaking: AdapterVersion) -> None:
    page = owner.get(f"/admin/training/adapterversion/{breaking.pk}/activate/").content.decode()

    rows = re.findall(r"<tr>\s*<td>.*?</tr>", page, re.DOTALL)
    texts = [" ".join(re.sub(r"<[^>]+>", " ", row).split()) for row in rows]
    assert texts == [
        "broken critical cierran ¿A qué hora cierran? ¿A qué hora cierran? I don't know",
        "fixed pagar ¿Cómo puedo pagar? I don't know ¿Cómo puedo pagar?",
        "not right chiste I don't know – ¿Cómo puedo pagar?",
    ]
    assert "A critical answer breaks." in page


def test_what_breaks_a_critical_answer_goes_live_only_with_the_right_and_a_reason(
    client: Client, breaking: AdapterVersion
) -> None:
    url = f"/admin/training/adapterversion/{breaking.pk}/activate/"
    client.force_login(clerk("activate_adapterversion", "view_adapterversion", "view_trainingrun"))
    response = client.post(url, {"note": "all the same"}, follow=True)
    assert "breaks a critical answer: “¿A qué hora cierran?”" in response.content.decode()
    assert versions.live_version() != breaking

    User.objects.all().delete()
    client.force_login(clerk("activate_adapterversion", "activate_broken_adapterversion"))
    client.post(url, {"note": "  "})
    assert versions.live_version() != breaking, "a reason is wanted"
    client.post(url, {"note": "The shop has moved."})
    assert versions.live_version() == breaking
    assert Activation.objects.first().note == "The shop has moved."  # type: ignore[union-attr]


def test_any_two_versions_can_be_compared(owner: Client, breaking: AdapterVersion, make_version: MakeVersion) -> None:
    other = make_version()
    url = f"/admin/training/adapterversion/{breaking.pk}/compare/"

    assert f"selected>{versions.live_version()}" in owner.get(url).content.decode(), "the live one first"
    page = owner.get(url, {"with": other.pk}).content.decode()
    assert f"selected>{other}" in page
    for nonsense in ("999", "x", breaking.pk):
        assert owner.get(url, {"with": nonsense}).status_code == 404


def test_only_who_may_see_versions_compares_them(client: Client, breaking: AdapterVersion) -> None:
    url = f"/admin/training/adapterversion/{breaking.pk}/compare/"
    assert "/admin/login/" in client.get(url).headers["Location"]
    client.force_login(clerk("view_trainingrun"))
    assert client.get(url).status_code == 403


PAGES = ("/admin/training/trainingrun/prepare/", "/admin/training/trainingrun/differences.csv")


@pytest.mark.parametrize("url", PAGES)
def test_only_who_may_train_prepares_a_training(
    client: Client, shop: None, make_version: MakeVersion, url: str
) -> None:
    versions.activate(make_version())
    assert "/admin/login/" in client.get(url).headers["Location"]

    client.force_login(clerk("view_trainingrun", "view_faqentry"))
    assert client.get(url).status_code == 403

    User.objects.all().delete()
    client.force_login(clerk("add_trainingrun"))
    assert client.get(url).status_code == 200
    assert not re.search(ENTRY_PAGE, client.get(url).content.decode()), "no link to what may not be edited"


POSTS = [
    ("train-now", "/admin/training/trainingrun/train-now/", "add_trainingrun"),
    ("cancel", "/admin/training/trainingrun/{run}/cancel/", "change_trainingrun"),
    ("activate", "/admin/training/adapterversion/{version}/activate/", "activate_adapterversion"),
    ("roll-back", "/admin/training/adapterversion/roll-back/", "activate_adapterversion"),
]


@pytest.mark.parametrize(("name", "url", "permission"), POSTS, ids=[name for name, _, _ in POSTS])
def test_each_action_needs_its_permission(
    client: Client, shop: None, make_version: MakeVersion, name: str, url: str, permission: str
) -> None:
    version = make_version()
    url = url.format(run=version.run.pk, version=version.pk)
    assert client.post(url).status_code == 302
    assert "/admin/login/" in client.post(url).headers["Location"]

    client.force_login(clerk("view_trainingrun", "view_adapterversion"))
    assert client.post(url).status_code == 403
    assert not Activation.objects.exists()
    assert not TrainingRun.objects.filter(status="queued").exists()

    User.objects.all().delete()
    client.force_login(clerk(permission))
    assert client.post(url).status_code == 302


def test_actions_are_not_done_by_following_a_link(owner: Client, make_version: MakeVersion) -> None:
    make_version()
    for url in ("/admin/training/trainingrun/train-now/", "/admin/training/adapterversion/roll-back/"):
        assert owner.get(url).status_code == 405


def test_actions_need_a_token_against_forgery(olga: User, shop: None) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(olga)

    assert client.post("/admin/training/trainingrun/train-now/", {"preset": "quick"}).status_code == 403
