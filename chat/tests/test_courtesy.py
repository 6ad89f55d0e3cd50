"""What customers say that is no question to the business."""

from __future__ import annotations

import pytest
from asgiref.sync import async_to_sync

from chat.courtesy import Courtesy, courtesies_in, courtesy_of, plea_of, pleasantries_in, wants_person
from chat.earlier import spoken_of
from chat.handovers import _reason
from chat.models import Handover
from chat.tests.test_followups import ANSWERED, ASKED, FOLLOW_UP, REPLY, Said, answers_to, said
from faq.models import FaqEntry, Paraphrase
from training.models import AdapterVersion


@pytest.mark.parametrize(
    ("texts", "courtesy"),
    [
        (
            (
                "hola",
                "¡Hola, buenos días!",
                "buenas",
                "Hola qué tal",
                "hello there",
                "¿Y tú cómo estás?",
                "hola, buenas tardes señor",
            ),
            "greeting",
        ),
        (
            (
                "tengo una duda",
                "Hola, buenas tardes, tengo una consulta",
                "una pregunta",
                "quisiera hacerles una pregunta por favor",
                "¿me pueden ayudar?",
                "necesito ayuda",
                "hola! quería preguntarles algo",
                "I have a question",
                "can you help me please?",
            ),
            "announcement",
        ),
        (
            ("gracias", "Muchísimas gracias por todo", "ok, gracias", "thanks so much!", "muy amable", "no, gracias"),
            "thanks",
        ),
        (("ok", "vale, perfecto", "Entendido.", "de acuerdo", "great", "está bien"), "acceptance"),
        (
            (
                "adiós",
                "gracias, hasta luego",
                "eso es todo, gracias",
                "bye",
                "that's all",
                "hasta mañana",
                "no, eso es todo",
            ),
            "goodbye",
        ),
        (
            (
                "¿eres una persona?",
                "eres un robot o una persona real?",
                "¿Quién eres?",
                "Are you human?",
                "sos una IA?",
            ),
            "who_are_you",
        ),
    ],
)
def test_it_knows_courtesies(texts: tuple[str, ...], courtesy: str) -> None:
    assert {text: courtesy_of(text) for text in texts} == dict.fromkeys(texts, Courtesy(courtesy))


@pytest.mark.parametrize(
    "text",
    [
        *("", "?", "👍", "sí", "no", "hola, ¿a qué hora cierran?", "gracias pero no funciona", "ok y cuánto tarda"),
        *("¿tienen vale de compra?", "una persona me atendió mal", "buenas noches de hotel", "¿es un producto real?"),
        *("¿y quién ganó el mundial?", "¿Está listo mi pedido?", "quién es el dueño", "soy una persona mayor"),
        *(
            "¿es esto cuero real?",
            "¿eres mayorista?",
            "¿ya está listo?",
            "¿está todo claro?",
            "¿Eso es todo?",
            "nada más?",
        ),
        *(
            "is this machine washable?",
            "is this item made by a machine",
            "Is this tent for one person?",
            "¿y eso es bueno?",
        ),
        *("Are you open? my coffee machine is broken", "¿Es usted quien vende la máquina de coser?", "hola, ¿ya está?"),
        *("tengo una duda con mi factura", "¿me pueden ayudar a cambiar la talla?", "necesito ayuda con el pago"),
        *("¿puedo hacer una consulta veterinaria?", "quiero información de los cursos", "cuánto vale una consulta"),
        *("¿Escribo a la persona que recibe el regalo?", "¿Estoy hablando con la persona de ventas?"),
    ],
)
def test_whatever_else_is_asked_is_no_courtesy(text: str) -> None:
    assert courtesy_of(text) is None


@pytest.mark.parametrize(
    "text",
    [
        *(
            "quiero hablar con una persona",
            "pásame con un agente",
            "¿me puede atender alguien?",
            "agente",
            "un humano por favor",
        ),
        *("me pones con alguien?", "una persona real por favor", "con una persona", "quiero hablar con un responsable"),
        *("speak with a manager", "real person please"),
        *("necesito un asesor", "I want to talk to a real person", "human please", "comuníqueme con un representante"),
    ],
)
def test_it_hears_who_asks_for_a_person(text: str) -> None:
    assert wants_person(text)


@pytest.mark.parametrize(
    "text",
    [
        "¿cuánto cuesta por persona?",
        "¿A qué hora cierran?",
        "quiero un regalo para alguien",
        "",
        "no quiero hablar con una persona",
        "¿atienden en persona?",
        "¿Puedo pasar en persona a recoger mi pedido?",
        "¿Pasa algo si lo recoge otra persona?",
        "¿Pasa por un agente de aduanas?",
        "¿puedo transferir la tarjeta a otra persona?",
        "Can I pass my gift card to someone else?",
        "I need someone else to receive it",
        "I want a person's name engraved on it",
    ],
)
def test_it_hears_it_from_nobody_else(text: str) -> None:
    assert not wants_person(text)


@pytest.mark.django_db(transaction=True)
@pytest.mark.database
def test_they_are_answered_as_people_expect(live: AdapterVersion) -> None:
    hello, thanks, who, off = answers_to("hola", "muchas gracias", "¿eres una persona?", "¿quién ganó el mundial?")

    assert hello.text == "¡Hola! ¿En qué puedo ayudarle?"
    assert thanks.text.startswith("De nada.")
    assert who.text.startswith("Soy un asistente de IA, no una persona.")
    assert who.offers_person, "who asks that may want one"
    for each in (hello, thanks, who):
        assert (each.is_courtesy, each.is_declined, each.entry_key, each.suggestions) == (True, False, "", [])
    assert not hello.offers_person
    assert (off.is_declined, off.is_courtesy) == (True, False)


@pytest.mark.parametrize(
    ("text", "plea"),
    [
        ("quiero hablar con una persona", Courtesy.PERSON),
        ("Llevo una semana esperando y nadie me coge el teléfono, ¡sois unos sinvergüenzas!", Courtesy.COMPLAINT),
        ("esto es una estafa", Courtesy.COMPLAINT),
        ("qué pésimo servicio", Courtesy.COMPLAINT),
        ("nadie me da una solución", Courtesy.COMPLAINT),
        ("me han engañado con el precio", Courtesy.COMPLAINT),
        ("this is a scam", Courtesy.COMPLAINT),
        ("I want to make a complaint", Courtesy.COMPLAINT),
        ("nadie me contesta", Courtesy.COMPLAINT),
        ("el servicio fue horrible", Courtesy.COMPLAINT),
        ("tengo una queja", Courtesy.COMPLAINT),
        ("quiero presentar una reclamación", Courtesy.COMPLAINT),
        ("sois unos ladrones", Courtesy.COMPLAINT),
        ("¿envían por Estafeta?", None),
        ("¿el seguro cubre robo?", None),
        ("me han robado la tarjeta", None),
        ("me da vergüenza preguntarlo, ¿hacen tallas grandes?", None),
        ("¿venden ladrones de enchufe?", None),
        ("¿quién ganó el mundial?", None),
        ("¿venden ropa de bebé?", None),
        ("¿tienen buen servicio de reparación?", None),
        ("¿a qué hora me atienden el teléfono?", None),
        ("", None),
    ],
)
def test_what_no_answer_mends_is_told_from_questions(text: str, plea: Courtesy | None) -> None:
    assert plea_of(text) == plea


@pytest.mark.django_db(transaction=True)
def test_who_complains_is_not_told_that_it_is_not_known(live: AdapterVersion) -> None:
    off, complaint, person, question = answers_to(
        "¿quién ganó el mundial?",
        "nadie me coge el teléfono, sois unos sinvergüenzas",
        "quiero hablar con una persona",
        "es una vergüenza, ¿a qué hora cierran?",
    )

    assert off.is_declined
    assert complaint.text.startswith("Lamento lo ocurrido. Una persona puede ocuparse")
    assert (complaint.is_declined, complaint.is_courtesy, complaint.offers_person) == (True, False, True)
    assert person.text.startswith("Por supuesto.")
    assert (person.is_declined, person.is_courtesy, person.offers_person) == (False, True, True), "nothing was asked"
    assert question.entry_key == "hours", "what has an answer is answered"


@pytest.mark.django_db(transaction=True)
def test_what_staff_wrote_for_it_comes_first(live: AdapterVersion) -> None:
    """Whatever the engine holds to be near: here it is sure of nothing."""
    (live.path / "calibration.json").write_text('{"threshold": 1.0}', encoding="utf-8")
    Paraphrase.objects.create(entry=FaqEntry.objects.get(key="hours"), text="hola")
    hello, thanks = answers_to("muy buenos días", "gracias")
    assert (hello.entry_key, hello.is_declined, hello.suggestions, hello.is_courtesy) == ("hours", False, [], False)
    assert thanks.text.startswith("De nada.")


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("buenas tardes", {Courtesy.GREETING}),
        ("gracias, hasta luego", {Courtesy.THANKS, Courtesy.GOODBYE}),
        ("hola\nbuenas", {Courtesy.GREETING}),
        ("hola, ¿cómo pago?", set()),
        # These name what an entry may be about.
        ("necesito una orientación", set()),
        ("¿eres un robot?", set()),
        ("hola, tengo una duda", set()),
    ],
)
def test_a_mere_pleasantry_asks_for_nothing(text: str, kinds: set[Courtesy]) -> None:
    assert pleasantries_in(text) == kinds


def test_a_courtesy_may_have_several_lines() -> None:
    assert courtesies_in("¿eres una persona?\nhola") == (Courtesy.WHO_ARE_YOU, Courtesy.GREETING)
    assert courtesies_in("buenas\ntardes") == (Courtesy.GREETING,)
    assert courtesies_in("hola\n¿cómo pago?") == ()


@pytest.mark.django_db(transaction=True)
def test_a_greeting_is_answered_by_no_entry_that_happens_to_be_near(live: AdapterVersion) -> None:
    everything_is_near = '{"prior_weight": 40.0, "decline_credit": -9.0, "threshold": 0.0}'
    (live.path / "calibration.json").write_text(everything_is_near, encoding="utf-8")

    anything, hello = answers_to("zzzz wwww", "buenas tardes")
    assert anything.entry_key
    assert (hello.text, hello.entry_key, hello.is_declined) == ("¡Hola! ¿En qué puedo ayudarle?", "", False)
    assert hello.sureness is None


@pytest.mark.django_db(transaction=True)
def test_who_asks_for_a_person_is_offered_one(live: AdapterVersion) -> None:
    pay, person = answers_to("formas de pago", "quiero hablar con una persona")
    assert not pay.offers_person
    assert person.offers_person
    assert person.text == "Por supuesto. Aquí mismo puede pedir que le atienda una persona."


@pytest.mark.parametrize(
    ("question", "is_declined", "reason"),
    [
        ("quiero hablar con una persona", False, Handover.Reason.ASKED),
        ("quiero hablar con una persona", True, Handover.Reason.ASKED),
        ("zzz", True, Handover.Reason.NOT_UNDERSTOOD),
        ("¿eres un robot?", False, Handover.Reason.ASKED),
    ],
)
@pytest.mark.django_db
def test_who_was_offered_a_person_for_asking_has_asked(
    question: str, is_declined: bool, reason: Handover.Reason
) -> None:
    more = {"finish_reason": "stop", "offers_person": True, "is_declined": is_declined}
    conversation = said(("user", question, {}), ("assistant", "…", more)).conversation
    assert _reason(conversation) == reason


@pytest.mark.django_db
def test_thanks_change_no_subject() -> None:
    thanks: list[Said] = [("user", "muchas gracias", {}), ("assistant", "De nada.", {"finish_reason": "stop"})]
    assert async_to_sync(spoken_of)(said(ASKED, ANSWERED, *thanks, FOLLOW_UP, REPLY)) == ASKED[1]
