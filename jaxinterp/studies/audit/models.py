"""The models of an audit: trained from a common trunk and measured, one seed after the other or side by side."""

import contextlib
import dataclasses
import multiprocessing
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxinterp.base.errors import UserError
from jaxinterp.base.files import write_json
from jaxinterp.base.progress import Report, progress
from jaxinterp.base.run_folder import interruptible, stop_with
from jaxinterp.metrics.measure import measure_sets
from jaxinterp.metrics.results import left_out_relations, other_queries, overall
from jaxinterp.models.language_model import LanguageModel
from jaxinterp.studies.audit.config import AuditConfig, base
from jaxinterp.studies.run_data import RunData, run_data
from jaxinterp.training.driver import NotFinite
from jaxinterp.training.fork import branch, common_step
from jaxinterp.training.loop import train

Measured = Mapping[str, Mapping[str, np.ndarray]]  # set -> metric -> samples
LEFT_OUT = "left_out"  # beside a set's metrics: the relations that its figures lack, and why, as texts


def data_of(config: AuditConfig, seed: int) -> RunData:
    """Facts and encoded sets of a seed's models."""
    return run_data(config.data(seed), config.sets)


def folder_of(out: Path, group: str, seed: int) -> Path:
    """Where a model of an audit is."""
    return out / "runs" / group / f"seed{seed}"


def jobs(config: AuditConfig) -> list[tuple[int, str]]:
    """All models as (seed, group): every group of a seed before the next seed, and plain ones before the others."""
    most = max(config.group_seeds(group) for group in config.groups)
    return [(seed, group) for seed in range(most) for group in config.groups if seed < config.group_seeds(group)]


def measure_all(config: AuditConfig, out: Path, workers: int = 1) -> None:
    """Trains and measures every model that is not measured yet; their samples are then in their folders.

    Args:
      config: the audit; each seed has its own division of the facts.
      out: the audit's folder.
      workers: processes, each with its share of the cores and of the seeds. Small models leave cores idle that they
        share; one process a core trains half as many again. For CPUs.
    Raises:
      UserError: if a run cannot go on.
    """
    todo = [(seed, group) for seed, group in jobs(config) if not _done(out, group, seed)]
    total = len(jobs(config))
    with progress("audit", total, done=total - len(todo)) as report:
        if workers > 1 and len({seed for seed, _ in todo}) > 1:
            _in_workers(config, out, todo, workers, report)
        elif todo:
            for done, (seed, group) in enumerate(todo, total - len(todo)):
                report(done, f"{group}, seed {seed}")
                measure_one(config, data_of(config, seed), group, seed, out)
        report(total, "")


def measure_one(config: AuditConfig, data: RunData, group: str, seed: int, out: Path) -> None:
    """Trains and measures one model, or goes on with it; a run whose numbers stop being finite has failed for good."""
    folder = folder_of(out, group, seed)
    run = config.training(group, seed)
    trunk = folder_of(out, base(group), seed)
    if folder != trunk and not folder.exists() and (common := common_step(run, trunk)):
        branch(run, trunk, common, folder)
    resume = (folder / "config.json").exists()
    try:
        model = train(run, data.training, folder, resume=resume, title=f"{group}, seed {seed}")
    except NotFinite as error:  # of this objective's doing, and a result
        print(f"{group}, seed {seed}: {error}", flush=True)
        write_json(_failed_path(folder), {"error": str(error)})
        return
    found = samples_of(config, data, model)
    path = _samples_path(folder)
    partial = path.with_name("samples.partial.npz")
    np.savez(partial, **{f"{name}/{metric}": x for name, of in found.items() for metric, x in of.items()})
    partial.replace(path)


def samples_of(config: AuditConfig, data: RunData, model: LanguageModel) -> Measured:
    """Values and replicates of all metrics on all sets, and "ability" of the training sentences. Where the figures of a
    set lack relations, or C lacks facts that S has, `LEFT_OUT` says so.
    """
    measure = dataclasses.replace(config.measure, metrics=config.metrics)
    found = measure_sets(model, data.training.facts, data.sets, data.ability, measure, clean=data.clean)
    lost = left_out_relations(found.sets)
    sets = {**found.sets, "ability": found.ability}
    samples = {name: {metric: of.samples for metric, of in metrics.items()} for name, metrics in sets.items()}
    for name, metrics in found.sets.items():
        left_out = [f"{relation} ({reason})" for relation, reason in lost.get(name, {}).items()]
        kinds = other_queries(overall({name: metrics})[name])
        left_out += [f"facts without such a control from C_{kind}" for kind in kinds]
        if left_out:
            samples[name][LEFT_OUT] = np.array(left_out)
    return samples


def read_samples(folder: Path) -> Measured | None:
    """What `measure_one` left in a model's folder; None of a run that failed."""
    if _failed_path(folder).exists():
        return None
    found: dict[str, dict[str, np.ndarray]] = {}
    with np.load(_samples_path(folder), allow_pickle=False) as file:
        for key in file.files:
            set_name, metric = key.split("/")
            found.setdefault(set_name, {})[metric] = file[key]
    return found


def _samples_path(folder: Path) -> Path:
    return folder / "samples.npz"


def _failed_path(folder: Path) -> Path:
    return folder / "failed.json"


def _done(out: Path, group: str, seed: int) -> bool:
    folder = folder_of(out, group, seed)
    return _samples_path(folder).exists() or _failed_path(folder).exists()


def _in_workers(config: AuditConfig, out: Path, todo: Sequence[tuple[int, str]], workers: int, report: Report) -> None:
    """Deals the seeds out to processes and waits for them; a signal is passed on, so that they save and stop."""
    seeds = sorted({seed for seed, _ in todo})
    context = multiprocessing.get_context("spawn")
    mistakes = context.Queue()
    shares = [seeds[index::workers] for index in range(min(workers, len(seeds)))]
    (out / "logs").mkdir(parents=True, exist_ok=True)
    processes = [
        context.Process(target=_work, args=(config, out, share, index, len(shares), mistakes, os.getpid()))
        for index, share in enumerate(shares)
    ]
    before = len(jobs(config)) - len(todo)
    print(f"{len(processes)} processes; what each says: {out / 'logs'}", flush=True)
    with interruptible() as interrupted:
        for process in processes:
            process.start()
        try:
            while any(process.is_alive() for process in processes):
                time.sleep(1)
                done = sum(_done(out, group, seed) for seed, group in todo)
                report(before + done, "")
                if interrupted.is_set() or any(process.exitcode for process in processes):
                    break
        finally:
            for process in processes:
                process.terminate()  # of one that has ended it changes nothing
            for process in processes:
                process.join()
    if not mistakes.empty():
        raise UserError(mistakes.get())
    if interrupted.is_set():
        raise KeyboardInterrupt("stopped; start again with the same folder to go on")
    if failed := [index for index, process in enumerate(processes) if process.exitcode]:
        raise RuntimeError(f"process {failed[0]} of the audit failed; its traceback stands above")


def _work(config: AuditConfig, out: Path, seeds: Sequence[int], index: int, n: int, mistakes, parent: int) -> None:
    """What a process does: all models of its seeds, on its share of the cores."""
    if hasattr(os, "sched_setaffinity"):  # Linux; JAX makes a thread for each core that it may use
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cores[index::n] or cores)
    stop_with(parent)
    path = out / "logs" / f"{index}.log"
    with path.open("a", encoding="utf-8", buffering=1) as log, contextlib.redirect_stdout(log):
        try:
            for seed, group in jobs(config):
                if seed in seeds and not _done(out, group, seed):
                    measure_one(config, data_of(config, seed), group, seed, out)
        except UserError as error:
            mistakes.put(str(error))
            raise SystemExit(2) from None
        except KeyboardInterrupt as error:
            print(error, flush=True)
            raise SystemExit(130) from None
