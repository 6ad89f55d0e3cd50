"""What a version may say at a given moment: candidates with their trie and prior, and the choice among them.

Knows a tokenizer and a tree of tokens. Does not know the database: an answer is named by its entry's key.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Sequence
from typing import Any

import numpy as np

from training.lm.augment import strip_accents
from training.lm.background import bundled_background
from training.lm.decisions import (
    MAX_SUGGESTIONS,
    Calibration,
    Candidate,
    Decision,
    is_declined,
    suggestions_of,
)
from training.lm.decoding import Enough, FloatArray, GuidedAnswer, guided_search
from training.lm.encoder import bundled_reader
from training.lm.packing import Expected, TokenTree
from training.lm.prior import Prior, Reader
from training.lm.prompts import DECLINE, encode_answer
from training.lm.semantics import bundled_vectors
from training.lm.trie import AnswerTrie
from training.lm.words import WordMatcher

MAX_ENCODED_TEXTS = 6_000
# What an answer is worth beside all others whose question staff wrote word for word, in nats: nothing outweighs it.
VERBATIM = 1_000.0


def prior_of(
    texts_by_owner: Sequence[Sequence[str]], off_topic: Sequence[str] = (), *, previous: Prior | None = None
) -> Prior:
    """The prior with all that the bundled base knows.

    Args:
        texts_by_owner: the wordings and the answer of each entry, or what of them is to be known.
        previous: of an earlier publication, or of other texts: what it read is not read again.
    """
    owners = [owner for owner, texts in enumerate(texts_by_owner) for _ in texts]
    reader: Reader = bundled_vectors()
    background = words = None
    # The encoder reads some 300 texts a second; a business that has very many is answered from n-grams and vectors.
    if len(owners) <= MAX_ENCODED_TEXTS:
        reader, background = bundled_reader(), bundled_background()
        earlier_words = previous.words if previous is not None else None
        words = WordMatcher(texts_by_owner, bundled_vectors(), background, previous=earlier_words)
    return Prior(
        [text for texts in texts_by_owner for text in texts],
        owners,
        len(texts_by_owner),
        off_topic,
        reader=reader,
        words=words,
        background=background,
        previous=previous,
    )


def _heard(text: str) -> str:
    """A question without case, accents and punctuation; "moño" is no "mono", "Pro+" no "Pro"."""
    return " ".join(re.findall(r"[\w+]+", strip_accents(text.casefold())))


class AnswerSet:
    """Immutable. Built once per version and publication; shared by every request for them.

    Answers with the same path share a leaf; the prior then chooses between their entries.

    Args:
        previous: the answers of an earlier publication: what has not changed is taken over from there.
    """

    def __init__(
        self,
        tokenizer: Any,
        candidates: Sequence[Candidate],
        off_topic: Sequence[str] = (),
        *,
        previous: AnswerSet | None = None,
    ) -> None:
        self.candidates = tuple(candidates)
        known: dict[str, tuple[int, ...]] = previous._paths if previous is not None else {}
        learned_texts = [*(candidate.learned_text for candidate in candidates), DECLINE]
        self._paths: dict[str, tuple[int, ...]] = {
            text: known.get(text) or tuple(encode_answer(tokenizer, text)) for text in learned_texts
        }
        self.trie = AnswerTrie([self._paths[text] for text in learned_texts])
        self.decline_leaf = self.trie.leaf_of[-1]
        self._leaves = np.array(self.trie.leaf_of, dtype=int)
        self._places = {candidate.key: place for place, candidate in enumerate(candidates)}
        self._by_wording: dict[str, set[int]] = {}
        for place, candidate in enumerate(candidates):
            for wording in candidate.wordings:
                self._by_wording.setdefault(_heard(wording), set()).add(place)
        for text in off_topic:
            self._by_wording.pop(_heard(text), None)
        self.off_topic = tuple(off_topic)
        self.prior: Prior = prior_of(
            [(*each.wordings, each.answer) for each in candidates],
            off_topic,
            previous=previous.prior if previous is not None else None,
        )

    def verbatim(self, question: str, *, as_offered: bool = False) -> str | None:
        """The key of the one answer that has the question among its wordings, but for case, accents and punctuation.

        Of several the one that has it first, as suggestions have it. None of what is to be declined.

        Args:
            as_offered: only if it has it first.
        """
        heard = _heard(question)
        having = [self.candidates[place] for place in self._by_wording.get(heard, ())]
        offered = [candidate for candidate in having if _heard(candidate.wordings[0]) == heard]
        found = offered if as_offered or len(having) > 1 else having
        return found[0].key if len(found) == 1 else None

    def bonus(self, scores: FloatArray, calibration: Calibration) -> FloatArray:
        """λ · prior of each leaf, (leaves,), from the prior's scores of a question, (candidates + 1,)."""
        return calibration.prior_weight * self.prior_of_leaves(scores, calibration)

    def prior_of_leaves(self, scores: FloatArray, calibration: Calibration) -> FloatArray:
        """The prior of each leaf, (leaves,), from the prior's scores of candidates and off-topic, (candidates + 1,)."""
        per_leaf = np.full(len(self.trie), -np.inf)
        np.maximum.at(per_leaf, self._leaves, np.append(scores[:-1], calibration.declining(scores[-1])))
        return per_leaf

    def decide(
        self,
        tree: TokenTree,
        scores: FloatArray,
        calibration: Calibration,
        *,
        is_exact: bool,
        verbatim: str | None = None,
    ) -> Generator[list[int], Expected, Decision]:
        """Choose an answer; a generator as in decoding.py.

        Args:
            tree: the prompt, nothing of it read yet.
            scores: what the prior says of the question.
            is_exact: whether the confidence is wanted as exactly as if there were time.
            verbatim: the answer whose question this is word for word, and which is given whatever else seems likely.
        """
        bonus = self.bonus(scores, calibration)
        if verbatim is not None:
            place = self._places[verbatim]
            bonus[self._leaves[place]] += VERBATIM
            # Of those that share its leaf, too.
            scores = scores.copy()
            scores[place] += VERBATIM
        enough = (
            None if is_exact else Enough(calibration.threshold, calibration.suggestion_threshold, self.decline_leaf)
        )
        guided = yield from guided_search(
            tree,
            self.trie,
            bonus,
            model_weight=calibration.model_weight,
            enough=enough,
        )
        return self.decision(guided, scores, calibration, verbatim)

    def decision(
        self, guided: GuidedAnswer, scores: FloatArray, calibration: Calibration, verbatim: str | None = None
    ) -> Decision:
        """What the search's outcome means under the calibration."""
        places = np.flatnonzero(guided.leaves != self.decline_leaf)
        if not len(places):
            return Decision(None, True, 0.0, 0.0, guided.num_forwards)
        best = places[0]
        key = self._best_candidate(int(guided.leaves[best]), scores)
        coverage = float(guided.coverages[best])
        # What was not there to be learned, the model left to itself would not say, and is not asked to.
        is_covered = (
            coverage >= calibration.min_coverage or key == verbatim or not self.candidates[self._places[key]].is_learned
        )
        confidence = float(guided.probabilities[best]) if is_covered else 0.0
        declined = is_declined(confidence, calibration)
        near = tuple(
            (self._best_candidate(int(guided.leaves[place]), scores), float(guided.probabilities[place]))
            for place in places[:MAX_SUGGESTIONS]
        )
        return Decision(
            key=key,
            is_declined=declined,
            confidence=confidence,
            coverage=coverage,
            num_forwards=guided.num_forwards,
            on_topic=float(guided.probabilities[places].sum()) if is_covered else 0.0,
            suggestions=suggestions_of(near, calibration) if declined else (),
            near=near,
        )

    def _best_candidate(self, leaf: int, scores: FloatArray) -> str:
        sharing = np.flatnonzero(self._leaves[:-1] == leaf)
        return self.candidates[int(sharing[scores[sharing].argmax()])].key
