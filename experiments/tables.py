"""The numbers as Markdown: a table for each model, and whether BLAST by our search is ahead."""
from tasks import METHODS, WAYS, stem

SHOWN_KEEPS = ("0.7", "0.5", "0.3")
CLAIMED_KEEPS = ("0.5", "0.3")
CLAIMED_WAYS = ("compressed", "fine-tuned")
OURS = "BLAST, ours"


def values(task, store, keep, method, way):
    """The numbers of one cell, nothing if they are not there yet."""
    return of_key(store, stem(task.name, keep, method) + WAYS[way])


def of_key(store, key):
    found = store.value(key)
    return found and {**found, **(store.value(f"{key}-drawn") or {})}


def table(task, store):
    """A row for each kept share and method, the best of several of a share in bold."""
    ways = [way for way in WAYS if any(values(task, store, keep, method, way) for keep in SHOWN_KEEPS for method in METHODS)]
    dense = of_key(store, f"{task.name}-dense")
    text = f"## {task.title}\n\n{'Dense: ' + task.cell(dense) + '. ' if dense else ''}Numbers are the {task.measure}. {task.budget}\n\n"
    heads = ["error of weights", *ways]
    text += f"| keep | method | {' | '.join(heads)} |\n|---:|---|{'---:|' * len(heads)}\n"
    for keep in SHOWN_KEEPS:
        numbers = {(method, way): values(task, store, keep, method, way) for method in METHODS for way in ways}
        there = {way: [numbers[method, way][task.ranks] for method in METHODS if numbers[method, way]] for way in ways}
        best = {way: min(found) if len(found) > 1 else None for way, found in there.items()}
        errors = {method: store.value(f"{stem(task.name, keep, method)}-error") for method in METHODS}
        least = min((error["error"] for error in errors.values() if error), default=None)
        for method in METHODS:
            cells = [bold(f"{errors[method]['error']:.3f}", errors[method]["error"] == least) if errors[method] else ""]
            for way in ways:
                found = numbers[method, way]
                cell = task.cell(found) if found else ""
                cells.append(bold(cell, found and found[task.ranks] == best[way]))
            text += f"| {keep} | {method} | {' | '.join(cells)} |\n"
    return text


def bold(text, best):
    return f"**{text}**" if best else text


def claims(tasks, store):
    """Where BLAST by our search is ahead of the others and where not, compressed from the weights alone and fine-tuned."""
    text = "## Is BLAST by our search ahead?\n\n"
    text += f"{OURS} over the best of the other three, by the first number of the tables above; below 1 it is ahead of all of them.\n\n"
    heads = [f"{way}, {keep}" for way in CLAIMED_WAYS for keep in CLAIMED_KEEPS]
    text += f"| model | {' | '.join(heads)} |\n|---|{'---:|' * len(heads)}\n"
    for task in tasks:
        cells = [against(task, store, keep, way) for way in CLAIMED_WAYS for keep in CLAIMED_KEEPS]
        text += f"| {task.title} | {' | '.join(cells)} |\n"
    for task in tasks:
        if task.name == "gpt2":
            text += "\n" + samples_claim(task, store)
    return text


def against(task, store, keep, way):
    found = {method: values(task, store, keep, method, way) for method in METHODS}
    if not all(found.values()):
        return ""
    number = {method: value[task.ranks] for method, value in found.items()}
    other = min((method for method in METHODS if method != OURS), key=number.get)
    return f"{number[OURS] / number[other]:.3f} ({other})"


def samples_claim(task, store):
    """Whether samples lower the perplexity of a language model."""
    lower, others = 0, []
    for keep in SHOWN_KEEPS:
        for method in METHODS:
            plain, sampled = (values(task, store, keep, method, way) for way in ("compressed", "with samples"))
            if not plain or not sampled:
                continue
            if sampled[task.ranks] < plain[task.ranks]:
                lower += 1
            else:
                others.append(f"{method} at {keep}")
    count = lower + len(others)
    if not count:
        return ""
    text = f"With samples, perplexity is lower than without in {lower} of {count} cases"
    return text + (f"; it is not for {', '.join(others)}.\n" if others else ".\n")


def steps_of(store):
    return store.data["settings"]["steps"]


def document(head, notes, tasks, store, picture):
    """The whole page; what a person wrote stands before and behind the numbers."""
    text = head
    if steps_of(store) != 1:
        text += f"\n**A trial with {steps_of(store)} of the steps: its numbers mean nothing.**\n"
    for task in tasks:
        text += "\n" + table(task, store)
        if task.name == "dit" and picture:
            floor = store.value("dit-floor")
            text += f"\nThe distance between the digits for training and those of the test is {floor['distance']:.3f}.\n" if floor else ""
            text += f"\nDigits that the models drew, four of each class from the same noise:\n\n![Drawn digits by method]({picture})\n"
    return text + "\n" + claims(tasks, store) + (f"\n{notes}" if notes else "")


def left(jobs):
    """What is not done, by task and way."""
    counts = {}
    for job in jobs:
        kind = job.words[0]
        counts[kind] = counts.get(kind, 0) + 1
    return ", ".join(f"{count} of {kind}" for kind, count in counts.items())
