"""What a version may say at a given moment: candidates with their trie and lexical prior, and the choice among them.

Knows a tokenizer and a Prefill. Does not know the database: an answer is named by its entry's key.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from training.lm.decisions import Calibration, Candidate, Decision, Stopped, is_declined
from training.lm.decoding import AnswerTrie, FloatArray, GuidedAnswer, Prefill, guided_search
from training.lm.prior import LexicalPrior
from training.lm.prompts import DECLINE, encode_answer


class AnswerSet:
    """Immutable. Built once per version and publication; shared by every request for them.

    Answers with the same path share a leaf; the prior then chooses between their entries.
    """

    def __init__(self, tokenizer: Any, candidates: Sequence[Candidate], off_topic: Sequence[str] = ()) -> None:
        self.candidates = tuple(candidates)
        paths = [candidate.learned_text for candidate in candidates]
        self.trie = AnswerTrie([encode_answer(tokenizer, text) for text in [*paths, DECLINE]])
        self.decline_leaf = self.trie.leaf_of[-1]
        self._leaves = np.array(self.trie.leaf_of, dtype=int)
        texts = [(text, owner) for owner, each in enumerate(candidates) for text in (*each.wordings, each.answer)]
        self.prior = LexicalPrior(
            [text for text, _ in texts], [owner for _, owner in texts], len(candidates), off_topic
        )

    def prior_of_leaves(self, scores: FloatArray, calibration: Calibration) -> FloatArray:
        """The prior of each leaf, (leaves,), from the lexical scores of candidates and off-topic, (candidates + 1,)."""
        declining = calibration.decline_credit + calibration.off_topic_weight * scores[-1]
        per_leaf = np.full(len(self.trie), -np.inf)
        np.maximum.at(per_leaf, self._leaves, np.append(scores[:-1], declining))
        return per_leaf

    def decide(
        self,
        prefill: Callable[[Sequence[int]], Prefill],
        question: str,
        calibration: Calibration,
        *,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> Decision:
        """Choose an answer for a question.

        Args:
            prefill: sends the prompt and the given further tokens through the model.
            should_stop: asked before every forward.

        Raises:
            Stopped: should_stop said so.
        """
        if should_stop():
            raise Stopped
        scores = self.prior.scores(question)
        guided = guided_search(
            prefill(self.trie.root_prefix),
            self.trie,
            calibration.prior_weight * self.prior_of_leaves(scores, calibration),
            should_stop=should_stop,
        )
        return self.decision(guided, scores, calibration)

    def decision(self, guided: GuidedAnswer, scores: FloatArray, calibration: Calibration) -> Decision:
        """What the search's outcome means under the calibration."""
        answers = [
            (self._best_candidate(leaf, scores), probability, coverage)
            for leaf, probability, coverage in zip(guided.leaves, guided.probabilities, guided.coverages, strict=True)
            if leaf != self.decline_leaf
        ]
        if not answers:
            return Decision(None, True, 0.0, 0.0, guided.num_forwards)
        key, confidence, coverage = answers[0]
        return Decision(
            key=key,
            is_declined=is_declined(confidence, calibration),
            confidence=confidence,
            coverage=coverage,
            num_forwards=guided.num_forwards,
        )

    def _best_candidate(self, leaf: int, scores: FloatArray) -> str:
        sharing = np.flatnonzero(self._leaves[:-1] == leaf)
        return self.candidates[int(sharing[scores[sharing].argmax()])].key
