"""A question that goes on from what was said before: "¿y cuánto tarda?". Knows texts, no conversation.

The base has learned single questions, no dialogues. So the model reads one question made of both parts, and the prior
looks at each part for itself (prior.py). The decision and its thresholds are the same as for every question.
"""

from __future__ import annotations

import re
from enum import IntEnum

from training.lm.augment import strip_accents, word_set

# How many words that mean something a question may have and still rest on another, with a sign of it and without.
MAX_WORDS = 3
MAX_WORDS_UNSIGNED = 1

_OPENINGS = re.compile(r"(y|e|o|pero|entonces|tambien|and|but|or|then|also|what about|how about)\b(?!-)")
_POINTERS = re.compile(
    r"\b(eso|esto|esos|esas|ello|lo mismo|la misma|el mismo|ahi|alli|it|that|this|those|these|them|the same)\b"
    # "cancelarlo", not "Carlos".
    r"|\b(?!([ck]arl[ao]s?|charlas?|chirlas?|marlas?|mirlos?|perlas?)\b)\w*[aei]r(lo|la|los|las)\b"
)
_QUESTION_WORDS = re.compile(
    r"\b(que|cual|cuales|como|cuando|cuant[oa]s?|donde|quien|por que|how|what|which|when|where|who|why)\b|[¿?]"
)
_GOODBYES = re.compile(r"\b(gracias|es todo|nada mas|adios|hasta luego|thanks?|that.?s all|that is all|bye)\b")

# Words that no subject is made of. What they ask about, something else has said. Without those that speak of whoever is
# asked ("están", "tienen"): "¿y dónde están?" asks about the shop.
_EMPTY_WORDS = word_set(
    """
    a al algo con contra cual cuales cuando cuanta cuantas cuanto cuantos como de del desde donde e el ella ellas
    ello ellos en entonces entre es esa esas ese eso esos esta estas este esto estos era fue ha hace hacer
    hago han hasta hay he la las le les lo los mas me mi mis misma mismo mucho muy nada ni no nos o para pasa pero por
    porque puede puedo que quien se sea ser seria si sin sobre son su sus tambien tan te tengo tiene
    ahi alli todo todos tu un una unas unos va y ya yo cuesta cuestan demora demoran tarda tardan vale valen
    about all also an and any are at be but by can could did do does for from has have how i if in is it its much many
    my of on or s same so that the them then there these they this those to too was we what when where which who why
    will with would you your
    """
)
# What is no question at all rests on nothing.
_POLITE_WORDS = word_set(
    """
    ok okay okey vale gracias muchas mil perfecto genial bien bueno hola buenas buenos dias tardes noches adios
    entiendo entendido claro listo dale thanks thank great fine hello hi hey bye perfect understood yes no si y muy
    """
)


class Rests(IntEnum):
    """How plainly a question rests on what was said before."""

    NOT = 0
    MAYBE = 1
    PLAINLY = 2
    # "¿y cuánto tarda?" could be asked of anything.
    ENTIRELY = 3


def rests(question: str) -> Rests:
    """Whether a question says what it is about, as far as its words show that."""
    text = strip_accents(question.lower()).strip(" ¿¡?!.,")
    words = re.findall(r"[^\W_]+", text)
    is_question = bool(_QUESTION_WORDS.search(strip_accents(question.lower())))
    num_words = len([word for word in words if word not in _EMPTY_WORDS and word not in _POLITE_WORDS])
    is_goodbye = not num_words and not is_question and bool(_GOODBYES.search(text))
    if is_goodbye or all(word in _POLITE_WORDS for word in words):
        return Rests.NOT
    if num_words <= MAX_WORDS and (_OPENINGS.match(text) or _POINTERS.search(text)):
        return Rests.PLAINLY if num_words else Rests.ENTIRELY
    if num_words <= MAX_WORDS_UNSIGNED and is_question:
        return Rests.MAYBE
    return Rests.NOT


def together(question: str, context: str) -> str:
    """One text of both parts."""
    return f"{context.rstrip('?.! ')}. {question}"
