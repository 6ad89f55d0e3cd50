"""How fast and how steadily answers are served, against what a user would pick instead, from the same weights.

    python -m bench.serving [--quick] [--folder FOLDER]

The first run trains two versions of the demo shop in FOLDER (bench/out/serving); later runs find them there. Prints
JSON lines as it goes, Markdown tables, and one JSON object last. llama.cpp takes part where it is installed
(bench/llama_cpp.py, INSTALL). --quick takes about five minutes and leaves out the base in the shape of GPT-2 small.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

from bench.contenders import Free, InItsProcess, Material, names
from bench.instance import set_up
from bench.load import Load, median_of
from training.lm.config import GenerationParams


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--folder", type=Path, default=Path("bench/out/serving"))
    options = parser.parse_args()
    folder = options.folder.resolve()
    subprocess.run([sys.executable, "-m", "bench.material", folder], check=True)  # noqa: S603 - this very interpreter
    set_up(folder)
    from bench import growth, material, switching
    from bench.contenders import Approved

    learned, hardly_learned = material.demo_versions()
    demo, hardly = material.demo_material(learned), material.demo_material(hardly_learned)
    close_serving()
    rounds = 2 if options.quick else 5
    loads, differences = compare(demo, chat_counts=(1, 8, 32), rounds=rounds, num_checked=300, is_quick=options.quick)
    print(as_table("The bundled base", loads), flush=True)
    report("free text", differences)
    if not options.quick:
        gpt2 = material.gpt2_shaped_material(folder / "gpt2", demo)
        gpt2_loads, _ = compare(gpt2, chat_counts=(1, 8), rounds=2, num_checked=0, is_quick=False)
        print(as_table("A base in the shape of GPT-2 small", gpt2_loads), flush=True)

    with ExitStack() as stack:
        ours = Approved(demo, stack)
        num_questions = 30 if options.quick else 100
        grown = growth.by_entries(ours, num_questions=num_questions, rounds=rounds)
        longer = growth.by_length(ours, num_questions=num_questions, rounds=rounds)
        for rows in (grown, longer):
            print("\n".join(["", growth.HEADER, *(row.row() for row in rows), ""]), flush=True)
        ours.engine.load_version(hardly.version, hardly.adapter)
        report("stop", switching.stop_in_the_middle(ours, hardly.version, count=20))
        report("memory", switching.memory(ours))
        fuzzed = switching.fuzz(ours, [hardly.version], count=2_000 if options.quick else 10_000)
        report("fuzz", fuzzed)
    switched = switching.switch_under_load((learned, hardly_learned), list(demo.questions[:12]))
    report("switch", switched)
    close_serving()

    approved = {chats: loads["approved", chats] for chats in (1, 8)}
    generate = {chats: loads["generate", chats] for chats in (1, 8)}
    summary = {
        "approved_vs_generate_8": approved[8].answers_per_second / generate[8].answers_per_second,
        "approved_vs_continuous_batching_8": approved[8].answers_per_second
        / loads["continuous batching", 8].answers_per_second,
        "approved_vs_llama_cpp_8": approved[8].answers_per_second / loads["llama.cpp", 8].answers_per_second
        if ("llama.cpp", 8) in loads
        else None,
        # At one chat or at eight, whichever is worse.
        "first_delta_vs_full_generate": max(approved[chats].first_p50 / generate[chats].full_p50 for chats in (1, 8)),
        "free_vs_generate_1": loads["free", 1].answers_per_second / generate[1].answers_per_second,
        "free_token_differences": differences["differences"],
        "growth_100_to_10000": grown[3].answer_ms / grown[1].answer_ms,
        "switch_dropped": switched["dropped"],
        "switch_mixed": switched["mixed"],
        "switch_stale": switched["stale"],
        "alive_after_fuzz": fuzzed["alive"],
    }
    print(json.dumps({key: round(each, 4) if isinstance(each, float) else each for key, each in summary.items()}))


def close_serving() -> None:
    from training import serving

    serving.close()


# Questions a chat asks in one round: the slow ones once, the fast ones often enough to be measured. All in all so many
# at least, since answers differ in length.
QUESTIONS_A_CHAT = {"approved": 24, "free": 6, "continuous batching": 2, "llama.cpp": 4}
MIN_QUESTIONS = 12


def compare(
    material: Material, *, chat_counts: Sequence[int], rounds: int, num_checked: int, is_quick: bool
) -> tuple[dict[tuple[str, int], Load], dict[str, Any]]:
    """Every contender at every number of chats, in turns, so that what disturbs this machine disturbs all alike.

    Returns the medians of all rounds, and how many of so many answers of ours in free text are other than the plain
    greedy ones.
    """
    loads: dict[tuple[str, int], list[Load]] = {}
    with ExitStack() as stack:
        field = [InItsProcess(name, material) for name in names(material)]
        for contender in field:
            stack.callback(contender.close)
            contender.wait_until_ready()
        for chats, turn, contender in product(chat_counts, range(rounds), field):
            if turn and chats > 8 and is_quick:
                # What is slow is slowest here, and its figures are the steadiest.
                continue
            num_questions = max(MIN_QUESTIONS, chats * QUESTIONS_A_CHAT.get(contender.name, 1))
            load = contender.load(chats=chats, num_questions=num_questions, first=37 * turn)
            loads.setdefault((contender.name, chats), []).append(load)
            report("load", {"contender": contender.name, "chats": chats, "round": turn, **asdict(load)})
        plain = next(contender for contender in field if contender.name == "static batch")
        differences = count_differences(material, plain, num_checked) if num_checked else {}
    return {key: median_of(each) for key, each in loads.items()}, differences


def count_differences(material: Material, plain: InItsProcess, num_questions: int) -> dict[str, Any]:
    """How many answers in policy `free` are not, token for token, what plain greedy decoding writes."""
    differences = num_tokens = num_forwards = 0
    with ExitStack() as stack:
        ours = Free(material, stack)
        for start in range(0, num_questions, 20):
            numbers = range(start, min(start + 20, num_questions))
            futures = [ours.engine.submit_generation(ours.request(number), GenerationParams()) for number in numbers]
            for future, tokens in zip(futures, plain.batch(numbers).result(), strict=True):
                generated = future.result()
                num_tokens += generated.num_tokens
                num_forwards += generated.num_forwards
                text = ours.engine.tokenizer.decode(list(tokens), skip_special_tokens=True).strip()
                differences += generated.text != text or generated.num_tokens != len(tokens)
    return {
        "questions": num_questions,
        "differences": differences,
        "tokens_an_answer": round(num_tokens / num_questions, 1),
        "forwards_an_answer": round(num_forwards / num_questions, 2),
    }


def as_table(title: str, loads: dict[tuple[str, int], Load]) -> str:
    lines = [
        f"\n{title}\n",
        "| chats | | answers/s | first text p50 / p95, ms | whole answer p50 / p95, ms | ours is faster by |",
        "|---|---|---|---|---|---|",
    ]
    for (name, chats), load in sorted(loads.items(), key=lambda item: (item[0][1], -item[1].answers_per_second)):
        ratio = loads["approved", chats].answers_per_second / load.answers_per_second
        lines.append(
            f"| {chats} | {name} | {load.answers_per_second:.1f} "
            f"| {1e3 * load.first_p50:.0f} / {1e3 * load.first_p95:.0f} "
            f"| {1e3 * load.full_p50:.0f} / {1e3 * load.full_p95:.0f} | {ratio:.1f} |"
        )
    return "\n".join([*lines, ""])


def report(about: str, values: dict[str, Any]) -> None:
    print(json.dumps({"about": about, **values}), flush=True)


if __name__ == "__main__":
    main()
