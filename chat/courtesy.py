"""What customers say that is no question to the business: greetings, thanks, goodbyes, "are you a person?".

Told by its words, and only looked at where no approved answer was found: an entry that staff wrote for it comes first.
"""

from __future__ import annotations

import re
from enum import StrEnum

from django.utils.translation import gettext as _

from training.lm.augment import strip_accents, word_set


class Courtesy(StrEnum):
    GREETING = "greeting"
    THANKS = "thanks"
    ACCEPTANCE = "acceptance"
    GOODBYE = "goodbye"
    WHO_ARE_YOU = "who_are_you"

    @property
    def reply(self) -> str:
        """In the active language."""
        match self:
            case Courtesy.GREETING:
                return _("Hello! How can I help you?")
            case Courtesy.THANKS:
                return _("You're welcome. If there is anything else, just ask.")
            case Courtesy.ACCEPTANCE:
                return _("All right. If there is anything else, just ask.")
            case Courtesy.GOODBYE:
                return _("Goodbye, and thank you for writing.")
            case Courtesy.WHO_ARE_YOU:
                return _("I'm an AI assistant, not a person. You can ask for a person at any time.")


# What makes a message one of these, the last to match; all its other words must be padding.
_SIGNS = {
    Courtesy.ACCEPTANCE: r"ok(ay|ey)?|okis|vale|perfecto|genial|listo|dale|entendido|entiendo|de acuerdo|bueno|claro|"
    r"excelente|great|perfect|fine|understood|got it|all right|orale",
    Courtesy.GREETING: r"hola|holi|buenas|buen(os|as)? (dias?|tardes|noches)|hello|hi|hey|"
    r"good (morning|afternoon|evening)|que tal|como (estas?|esta usted|te va|le va|andas)|how are you",
    Courtesy.THANKS: r"(muchas |mil )?gracias|(muy )?amable|thanks?( you)?|thx|te (lo )?agradezco|se lo agradezco",
    Courtesy.GOODBYE: r"adios|hasta (luego|pronto|manana|la vista)|chao|chau|nos vemos|bye|goodbye|see you|"
    r"eso es todo|es todo|nada mas|that s all",
}
_PADDING = word_set(
    """
    a al ah ay bien con de dia dias el en eso es esta este estan gusto la le lo los mas me muchas muchisimas muy noches
    por que si su tardes te tu un una usted ustedes y ya todo todos equipo amigo amiga senor senora chicos ahi ayuda
    atencion informacion info respuesta rapida again and very much so for your help the you there team all everyone
    """
)
_KIND = (
    r"(persona|humano|humana|robot|bot|chatbot|maquina|ia|inteligencia artificial|chatgpt|human|person|machine|ai|"
    r"chat ?gpt)"
)
_WHO = re.compile(
    r"\b(eres|sos|es usted|hablo con|estoy hablando con|chateo con|escribo (a|con)|are you|is this|am i talking)\b"
    rf".{{0,25}}\b{_KIND}\b"
    r"|^(y )?(quien|que) (eres|sos)( tu| vos)?$|^(quien|con quien) (me )?(habla|hablo|atiende)$|^who (are you|is this)$"
)
_PEOPLE = (
    r"(persona|humano|humana|alguien|agentes?|asesora?|operadora?|ejecutiv[oa]|representante|emplead[oa]|encargad[oa])"
)
_SOMEBODY = r"(person|human|someone|somebody|agent|representative)"
_WANTS_PERSON = re.compile(
    r"\b(hablar|hablo|habla|hable|chatear|comuni\w+|contactar\w*|contacten\w*|pas[ae]\w*|ponga\w*|ati?end\w+|deriv\w+|"
    rf"transf\w+)\b.{{0,30}}\b{_PEOPLE}\b"
    rf"|\b(quiero|quisiera|necesito|prefiero) (a |un |una |a un |a una )?{_PEOPLE}\b"
    rf"|^(un |una )?{_PEOPLE}( por favor)?$"
    rf"|\b(talk|speak|chat|connect|transfer|pass)\b.{{0,25}}\b{_SOMEBODY}\b"
    rf"|\b(want|need) (a |an |some)?(real )?{_SOMEBODY}\b|^(an? )?{_SOMEBODY}( please)?$"
)


def courtesy_of(text: str) -> Courtesy | None:
    """What kind of courtesy a message is; None for one that holds anything else."""
    words = _plain(text)
    if _WHO.search(words):
        return Courtesy.WHO_ARE_YOU
    found = None
    rest = words
    for courtesy, signs in _SIGNS.items():
        rest, count = re.subn(rf"\b({signs})\b", " ", rest)
        found = courtesy if count else found
    return found if all(word in _PADDING for word in rest.split()) else None


def wants_person(text: str) -> bool:
    """Whether a message asks for a person."""
    return bool(_WANTS_PERSON.search(_plain(text)))


def _plain(text: str) -> str:
    return " ".join(re.findall(r"[^\W_]+", strip_accents(text.lower())))
