"""What customers say that is no question to the business: greetings, "I have a question", thanks, "are you a person?".

Told by its words, and looked at where no approved answer was found. A mere pleasantry is answered by an entry that has
such a wording, whichever the engine holds to be near, and by no other.
"""

from __future__ import annotations

import re
from enum import StrEnum
from functools import lru_cache

from django.utils.translation import gettext as _

from training.lm.augment import strip_accents, word_set


class Courtesy(StrEnum):
    GREETING = "greeting"
    ANNOUNCEMENT = "announcement"
    THANKS = "thanks"
    ACCEPTANCE = "acceptance"
    GOODBYE = "goodbye"
    WHO_ARE_YOU = "who_are_you"
    # Of what finds no answer, never of what has one.
    PERSON = "person"
    COMPLAINT = "complaint"

    @property
    def reply(self) -> str:
        """In the active language."""
        match self:
            case Courtesy.GREETING:
                return _("Hello! How can I help you?")
            case Courtesy.ANNOUNCEMENT:
                return _("Of course. What would you like to know?")
            case Courtesy.THANKS:
                return _("You're welcome. If there is anything else, just ask.")
            case Courtesy.ACCEPTANCE:
                return _("All right. If there is anything else, just ask.")
            case Courtesy.GOODBYE:
                return _("Goodbye, and thank you for writing.")
            case Courtesy.WHO_ARE_YOU:
                return _("I'm an AI assistant, not a person. You can ask for a person at any time.")
            case Courtesy.PERSON:
                return _("Of course. You can ask for a person right here.")
            case Courtesy.COMPLAINT:
                return _("I'm sorry about that. A person can look into it: you can ask for one right here.")


_QUESTION = r"((preguntita|pregunta|consultita|consulta|dudita|duda|question|doubt)( rapida)?|quick question)"
# What makes a message one of these, the last to match; all its other words must be padding.
_SIGNS = {
    Courtesy.ACCEPTANCE: r"ok(ay|ey)?|okis|vale|perfecto|genial|listo|dale|entendido|entiendo|de acuerdo|claro|"
    r"(esta|muy) bien|excelente|great|perfect|fine|understood|got it|all right|orale",
    Courtesy.GREETING: r"hola|holi|buenas|buen(os|as)? (dias?|tardes|noches)|hello|hi|hey|"
    r"good (morning|afternoon|evening)|que tal|como (estas?|esta usted|te va|le va|andas)|how are you",
    Courtesy.ANNOUNCEMENT: rf"((tengo|tenia|traigo|va|i have|i ve got|just) )?(una? |a |an )?{_QUESTION}|"
    rf"(quiero|queria|quisiera|puedo|podria|deseo|necesito|can i|i want to|i d like to) "
    rf"(preguntar(le|les|te)?|consultar(le|les|te)?|(hacer(le|les|te)?|ask( you)?) (una? |a |an )?{_QUESTION})( algo)?|"
    r"(me )?(puede[ns]?|podes|podria[ns]?|pueden)( por favor)? ayudar(me)?|me ayuda[sn]?|(can|could) you help( me)?|"
    r"(i )?(necesito|need|busco|quiero|quisiera|want) (ayuda|help|informacion|info|una? orientacion)",
    Courtesy.THANKS: r"(no )?(muchas |mil )?gracias|(muy )?amable|(no )?thanks?( you)?|thx|(te|se) (lo )?agradezco",
    Courtesy.GOODBYE: r"adios|hasta (luego|pronto|mañana|la vista)|chao|chau|nos vemos|bye|goodbye|see you|"
    r"(no )?(eso )?es todo|(no )?nada mas|(no )?that s all",
}
_PADDING = word_set(
    """
    a al ah ay con de dia dias el en gusto la las los mas me muchas muchisimas muy noches no por si su tardes te todo
    todos tu un una usted ustedes y ya señor señora señorita equipo amigo amiga chicos ayuda atencion informacion info
    respuesta rapida favor please again and very much so for your help the you there team all everyone
    """
)
# What names nothing that an entry could be about, as "necesito una orientación" or "¿quién me atiende?" may.
_PLEASANTRIES = {Courtesy.ACCEPTANCE, Courtesy.GREETING, Courtesy.THANKS, Courtesy.GOODBYE}
# "¿Está listo?" and "¿Nada más?" ask something.
_NEVER_ASKED = (Courtesy.ACCEPTANCE, Courtesy.GOODBYE)

_KIND = (
    r"(persona|humano|humana|robot|bot|chatbot|maquina|ia|inteligencia artificial|chat ?gpt|"
    r"human|person|machine|ai)"
)
# Each word with its space, so that no text can be read in more than one way.
_ONE_OF = rf"((un|una|a|an|la|el|the|real|de verdad|o|u|or|con|to|talking) )*{_KIND}"
_WHO = re.compile(
    r"\b(eres|sos|es usted|hablo con|estoy hablando con|chateo con|are you|am i talking to|am i chatting with|"
    rf"is this)( {_ONE_OF})+( (real|de verdad|tambien|acaso|por favor))?$"
    r"|^(y )?(quien|que) (eres|sos)( tu| vos)?$|^(quien|con quien) (me )?(habla|hablo|atiende)$|^who (are you|is this)$"
)

_PEOPLE = (
    r"(persona( real)?|humano|humana|alguien|agentes?|asesora?|operadora?|ejecutiv[oa]|representante|emplead[oa]|"
    r"encargad[oa]|responsable)"
)
_SOMEBODY = r"((real )?(person|human)|someone|somebody|agent|representative|manager)"
_A = r"((con|a) )?((un|una|algun|alguna) )?"
_WANTS_PERSON = re.compile(
    rf"\b(hablar|hable|chatear|comunicarme|contactar|comuni(que|ca)(me|nme)) {_A}{_PEOPLE}\b"
    rf"|\b(pase|pasa|pasen|ponga|pon|ponen?)(me|nme)? {_A}{_PEOPLE}\b(?<!otra persona)"
    rf"|\b(me|que) (puede |pueda )?(atiend[ae]|atender|pon(e|es|ga)|pas(a|as|e)|comuni(ca|que)) {_A}{_PEOPLE}\b"
    rf"|\b(quiero|quisiera|necesito|prefiero) {_A}{_PEOPLE}$"
    rf"|^{_A}{_PEOPLE}( por favor)?$"
    rf"|\b(talk|speak|chat) (to|with) (an? )?{_SOMEBODY}\b|\b(connect|transfer) me (to|with) (an? )?{_SOMEBODY}\b"
    rf"|\b(want|need) (an? )?{_SOMEBODY}$|^(an? )?{_SOMEBODY}( please)?$"
)
_REFUSES_PERSON = re.compile(r"\bno (quiero|necesito|hace falta)\b|\bdon t (want|need)\b|\b(someone|somebody) else\b")


_COMPLAINS = re.compile(
    r"\b(sinverguenzas?|(que|una) verguenza|vergonzos[oa]s?|estaf(a|as|ador|adores|adora|ado|ada|aron|ando)|"
    r"(sois|son|eres|es) (un[oa]?s? )?(ladron|ladrones|timo|fraude)|timad[oa]s?|"
    r"(me|nos) (estan robando|han engañado|engañaron)|"
    r"indignante|indignad[oa]|inaceptable|hart[oa]s? de|quejarme|quejarnos|"
    r"(presentar|poner|hacer|tengo|interponer) una (queja|reclamacion)|mierda|joder|"
    r"(pesim[oa]|horrible|terrible|mal) (servicio|atencion|experiencia)|"
    r"(servicio|atencion|experiencia) ((es|fue|esta siendo) )?(pesim[oa]|horrible|terrible)|"
    r"(nadie|no) me (contesta|contestan|responde|responden|coge|cogen|atiende|atienden)( el telefono)?$|"
    r"(nadie|no) me (coge|cogen|contesta|contestan) el telefono|nadie me (contesta|responde|atiende|da)|"
    r"scam|scammed|unacceptable|outrageous|disgrace|disgraceful|ripped off|(terrible|awful|worst|horrible) (service|"
    r"experience)|fed up|(make|file) a complaint)\b"
)


def plea_of(text: str) -> Courtesy | None:
    """What a message that found no answer is about, where that is nothing that an answer could mend."""
    if wants_person(text):
        return Courtesy.PERSON
    return Courtesy.COMPLAINT if _COMPLAINS.search(_plain(text)) else None


def courtesy_of(text: str) -> Courtesy | None:
    """What kind of courtesy a message is, the last of several; None for one that holds anything else."""
    found = courtesies_in(text)
    return found[-1] if found else None


def courtesies_in(text: str) -> tuple[Courtesy, ...]:
    """What kinds of courtesy a message is made of, also line by line; none for one that holds anything else."""
    lines = text.splitlines()
    by_line = [courtesies_in(line) for line in lines] if len(lines) > 1 else []
    if by_line and all(by_line):
        return tuple(kind for each in by_line for kind in each)
    words = _plain(text)
    if _WHO.search(words):
        return (Courtesy.WHO_ARE_YOU,)
    found: tuple[Courtesy, ...] = ()
    rest = words
    for courtesy, signs in _SIGNS.items():
        rest, count = re.subn(rf"\b({signs})\b", " ", rest)
        found += (courtesy,) if count else ()
    is_nothing_else = all(word in _PADDING for word in rest.split())
    is_asked = "?" in text and bool(found) and found[-1] in _NEVER_ASKED
    return found if is_nothing_else and not is_asked else ()


def pleasantries_in(text: str) -> frozenset[Courtesy]:
    """What a mere pleasantry is made of; nothing for any other message, also for a courtesy that asks for something."""
    found = frozenset(courtesies_in(text))
    return found if found <= _PLEASANTRIES else frozenset()


@lru_cache(maxsize=20_000)
def pleasantries_of(wording: str) -> frozenset[Courtesy]:
    """The same of what staff wrote, kept at hand; what customers write is not kept."""
    return pleasantries_in(wording)


def wants_person(text: str) -> bool:
    """Whether a message asks for a person."""
    words = _plain(text)
    return bool(_WANTS_PERSON.search(words)) and not _REFUSES_PERSON.search(words)


def _plain(text: str) -> str:
    return " ".join(re.findall(r"[^\W_]+", strip_accents(text.lower())))
