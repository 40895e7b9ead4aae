"""The three models: the runs of `blr` that an experiment takes, and the numbers that are read from their reports."""
import pathlib

import digits
from jobs import Job, nothing

ROOT = pathlib.Path(__file__).resolve().parent.parent
# If time runs out, the last is what is missing.
KEEPS = ("0.5", "0.3", "0.7")
# Both searches for BLAST factors take as many steps.
SEARCH = ["--steps", "300", "--tolerance", "0"]
METHODS = {
    "low-rank": ["--method", "low-rank"],
    "Monarch": ["--method", "monarch"],
    "BLAST, published": ["--method", "blast", "--solver", "gd", *SEARCH],
    "BLAST, ours": ["--method", "blast", *SEARCH],
}
SLUGS = {"low-rank": "low-rank", "Monarch": "monarch", "BLAST, published": "blast-gd", "BLAST, ours": "blast"}
# The ways to get to a model, and what the names of its jobs and values end with.
WAYS = {
    "compressed": "",
    "with samples": "-samples",
    "fine-tuned": "-tuned",
    "with samples, fine-tuned": "-samples-tuned",
    "from scratch": "-scratch",
}
DENSE, COMPRESS, SAMPLES, TUNE, SCRATCH, LAST = range(6)  # stages


def stem(task, keep, method):
    return f"{task}-{keep}-{SLUGS[method]}"


def weight_error(name):
    """Reads the mean relative error of the compressed layers' weights."""

    def read(report):
        errors = [layer["relative_error"] for layer in report["layers"]]
        return {f"{name}-error": {"error": sum(errors) / len(errors)}}

    return read


class Task:
    """A model that is compressed, tuned and trained.

    A class that follows has: `name`; `title`; `measure`, what the numbers are; `ranks`, the one that methods are compared by; `cell`, the
    numbers as text; `samples`, whether compress takes some; `dense`, the dense checkpoint; and `tune_words`, `scratch_words`.
    """

    samples = True
    dtype = "f32"  # of training: nothing is gained by less at these sizes
    compress_on_cpu = True  # with layers of 64 to 576 features a GPU would wait for launches

    def __init__(self, out, share):
        self.out, self.share = out, share

    def count(self, steps):
        return max(2, round(steps * self.share))

    def steps(self, steps):
        """Words for so many steps; a validation, after which a killed run can go on, at each third."""
        count = self.count(steps)
        return ["--steps", count, "--save-every", max(1, -(-count // 3)), "--dtype", self.dtype]

    def jobs(self):
        """All runs; `first` of the dense model and whatever it needs."""
        first, found = self.first(), []
        ready = tuple(job.name for job in first if job.out)
        for keep in KEEPS:
            for method, flags in METHODS.items():
                name = stem(self.name, keep, method)
                words = ["compress", self.dense, "--keep", keep, *flags]
                found += self.made(Job(name, COMPRESS, words, weight_error(name), self.out / name, ready, self.compress_on_cpu))
                found += self.tuned(name, TUNE)
                if self.samples and "gd" not in flags:
                    sampled = f"{name}-samples"
                    words = [*words, "--calibration", self.calibration, "--ranks", "by-error"]
                    found += self.made(Job(sampled, SAMPLES, words, nothing, self.out / sampled, ready, self.compress_on_cpu))
                    found += self.tuned(sampled, self.tune_sampled)
                # From scratch there is no solver, and of the flags only the method.
                if "gd" not in flags:
                    fresh = f"{name}-scratch"
                    words = ["train", *self.scratch_words, "--keep", keep, *flags[:2]]
                    found += self.made(Job(fresh, SCRATCH, words, self.last(fresh), self.out / fresh))
        return first + found

    def tuned(self, name, stage):
        """The runs that fine-tune checkpoint `name`."""
        words = ["finetune", self.out / name, "--teacher", self.dense, *self.tune_words]
        tuned = f"{name}-tuned"
        after = (name, f"{self.name}-dense") if self.trains_dense else (name,)
        return self.made(Job(tuned, stage, words, self.first_and_last(name, tuned), self.out / tuned, after))

    trains_dense = True
    tune_sampled = TUNE

    def first(self):
        dense = f"{self.name}-dense"
        return self.made(Job(dense, DENSE, ["train", *self.scratch_words], self.last(dense), self.dense))

    def made(self, job):
        """A run that makes a checkpoint, with what has to be run to measure that."""
        return [job]

    def last(self, key):
        """Reads the last validation of a training: of the test, in f32."""
        return lambda report: {key: self.validated(report["validations"][-1])}

    def first_and_last(self, before, after):
        """Reads the first as well, which is of the model as it came."""
        return lambda report: {before: self.validated(report["validations"][0]), **self.last(after)(report)}


class Gpt2(Task):
    """The demo's model; perplexity on its held-out text."""

    name, title, ranks = "gpt2", "GPT-2 of the demo", "perplexity"
    measure = "perplexity on the held-out text (lower is better)"
    trains_dense, tune_sampled, compress_on_cpu = False, LAST, False

    def __init__(self, out, share, corpus, dtype):
        super().__init__(out, share)
        self.dtype, self.dense = dtype, ROOT / "demo/checkpoint"
        self.calibration = corpus / "valid.txt"
        data = ["--data", corpus / "train.txt", "--valid", self.calibration, "--window", "256", "--batch", "32"]
        self.tune_words = [*data, "--lr", "1e-3", *self.steps(400)]
        self.scratch_words = [*data, "--lr", "2e-3", "--weight-decay", "0.1", *self.steps(800)]
        self.scratch_words += ["--family", "gpt2", "--config", ROOT / "configs/gpt2-demo/config.json", "--tokenizer", self.dense]
        self.budget = (
            f"Fine-tuned for {self.count(400):,} steps with a learning rate of 1e-3, from scratch for {self.count(800):,} with 2e-3, each of "
            f"32 rows of 256 tokens, in {dtype}; the dense model had 11,898 steps of 128 such rows."
        )

    def first(self):
        return self.measured("gpt2-dense", self.dense, COMPRESS, ())

    def made(self, job):
        return [job, *self.measured(job.name, job.out, job.stage, (job.name,))]

    def measured(self, key, checkpoint, stage, after):
        words = ["eval", checkpoint, "--data", ROOT / "demo/heldout.txt"]
        read = lambda report: {key: {name: report[name] for name in ("perplexity", "loss")}}
        return [Job(f"{key}-eval", stage, words, read, after=after)]

    # The validation text is for calibration; what counts is held out.
    def last(self, key):
        return nothing

    def first_and_last(self, before, after):
        return self.last(after)

    def cell(self, value):
        return f"{value['perplexity']:,.2f}"


class Vit(Task):
    """A vision transformer on the digits; cross entropy and errors on those that training never saw."""

    name, title, ranks = "vit", "Vision transformer on 8 x 8 digits", "loss"
    measure = "mean cross entropy on 360 images of the test and, in brackets, the share of them that is wrong (lower is better)"

    def __init__(self, out, share):
        super().__init__(out, share)
        train, test = digits.written(out)
        self.dense, self.calibration = out / "vit-dense", train
        data = ["--data", train, "--valid", test, "--batch", "128"]
        self.tune_words = [*data, "--lr", "1e-3", "--weight-decay", "0.05", *self.steps(200)]
        # A decay of 0.05 leaves the random numbers of the start in the weights: cross entropy of the dense model 0.236, with 2 it is 0.070.
        self.scratch_words = [*data, "--lr", "2e-3", "--weight-decay", "2", *self.steps(600)]
        self.scratch_words += ["--family", "vit", "--config", ROOT / "configs/vit-digits/config.json"]
        self.budget = (
            f"Fine-tuned for {self.count(200):,} steps with a learning rate of 1e-3 and a weight decay of 0.05, dense and from scratch for "
            f"{self.count(600):,} with 2e-3 and 2, each of 128 of the 1,437 images for training."
        )

    def validated(self, validation):
        return {"loss": validation["loss"], "errors": 100 * (1 - validation["accuracy"])}

    def cell(self, value):
        return f"{value['loss']:.3f} ({value['errors']:.1f} %)"


class Dit(Task):
    """A pixel DiT on the digits; the error of the noise that it finds, and how far what it draws is from digits of the test."""

    name, title, ranks = "dit", "Pixel DiT on 8 x 8 digits", "loss"
    measure = (
        "mean squared error of the noise that is found in 360 images of the test (fixed noise, steps spread evenly) and, in brackets, the "
        "distance of drawn digits from real ones: mean of that from a drawn digit to the nearest of the test of its class and of that from "
        "one of the test to the nearest drawn one (lower is better)"
    )
    samples = False  # compress takes none for a DiT
    drawn_each = 36

    def __init__(self, out, share):
        super().__init__(out, share)
        self.train, self.test = digits.written(out)
        self.dense, self.real = out / "dit-dense", digits.real(self.test)
        data = ["--data", self.train, "--valid", self.test, "--batch", "128", "--lr", "1e-3", "--ema", "0.995"]
        self.tune_words = [*data, *self.steps(400)]
        self.scratch_words = [*data, "--weight-decay", "0.5", *self.steps(1500)]
        self.scratch_words += ["--family", "dit", "--config", ROOT / "configs/dit-digits/config.json"]
        self.budget = (
            f"Fine-tuned for {self.count(400):,} steps with a weight decay of 0.01, dense and from scratch for {self.count(1500):,} with 0.5, all "
            "with a learning rate of 1e-3, each of 128 of the 1,437 images for training; the average of the weights (0.995) is taken."
        )

    def made(self, job):
        picture = self.out / "drawn" / f"{job.name}.png"
        words = ["sample", job.out, "--class", ",".join(map(str, range(digits.CLASSES))), "--count", self.drawn_each, "--guidance", "1"]
        words += ["--sampler", "ddim", "--steps", max(4, self.count(100)), "--out", picture]
        read = lambda report: {f"{job.name}-drawn": {"distance": digits.distance(digits.drawn(picture, self.drawn_each), self.real)}}
        picture.parent.mkdir(exist_ok=True)
        return [job, Job(f"{job.name}-drawn", job.stage, words, read, after=(job.name,))]

    def validated(self, validation):
        return {"loss": validation["loss"]}

    def cell(self, value):
        return f"{value['loss']:.4f}" + (f" ({value['distance']:.3f})" if "distance" in value else "")
