"""Tasks on a Ray cluster (extra `cluster`): workers on any machine, one owner of the store.

No folder is shared: what a task needs is sent to its worker, what it gives comes back, and the owner writes it.
"""

from __future__ import annotations

import getpass
import hashlib
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

from medaegis.artefact_files import MANIFEST
from medaegis.bench.store import code_fingerprint
from medaegis.errors import ArtefactError, ConfigError
from medaegis.experiments.schedule import RETRIES, Report, do, packed, scheduled, sources_of, unpacked
from medaegis.experiments.store import Pieces
from medaegis.experiments.tasks import Source, Task, in_order
from medaegis.experiments.work import Made, Workshop
from medaegis.models.hardware import pick_device
from medaegis.progress import Progress
from medaegis.safefiles import DISK, put_in_place

WAIT_SECONDS = 0.5
Parcel = dict[str, bytes]
"""The files of a folder, by name."""


class OnRay:
    """Executor on the cluster that Ray finds (RAY_ADDRESS, or one begun on this machine), else on one begun here.

    Each task asks for its threads as CPUs, and for a share of a GPU where the device is one. A worker that dies is
    replaced by Ray, and its task begins anew, or goes on where it was if it comes back to the same machine.

    Args:
        gpu_share: of one GPU, for each task on a GPU: 0.5 lets two share one.

    Raises:
        ConfigError: Ray is not installed, or finds no cluster.
    """

    def __init__(self, gpu_share: float = 1.0) -> None:
        self.gpu_share = gpu_share
        self.ray = _ray()

    def __call__(
        self, tasks: Sequence[Task], workshop: Workshop, told: Callable[[Task], Progress]
    ) -> Generator[tuple[Task, Made], None, None]:
        """See `medaegis.experiments.run.Executor`."""
        if not tasks:
            return
        began = not self.ray.is_initialized()
        if began:
            try:
                self.ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR")
            except (OSError, RuntimeError, ValueError) as error:
                raise ConfigError("--on ray", f"no cluster ({error})", "ray start --head, or set RAY_ADDRESS") from None
        pool = _Cluster(self.ray, tasks, workshop, self.gpu_share)
        try:
            yield from scheduled(tasks, pool, told)
            pool.forget()
        finally:
            pool.stop()
            if began:
                self.ray.shutdown()


class _Cluster:
    def __init__(self, ray: Any, tasks: Sequence[Task], workshop: Workshop, gpu_share: float) -> None:
        from ray.util.queue import Queue

        self.ray, self.workshop = ray, workshop
        self.gpus = gpu_share if workshop.device.type == "cuda" else 0
        self.sources = {name: ray.put(source) for name, source in sources_of(tasks).items()}
        self.parcels: dict[str, Any] = {}
        self.queue = Queue(actor_options={"num_cpus": 0})
        self.running: dict[Any, Task] = {}
        place = f"{socket.gethostname()} {workshop.pieces.root.resolve()}"
        self.scratch = hashlib.sha256(place.encode()).hexdigest()[:16]

    @property
    def room(self) -> int:
        """Ray itself keeps tasks waiting; twice what the cluster can do at a time leaves none of it idle."""
        cpus = int(self.ray.cluster_resources().get("CPU", 1))
        return max(2, 2 * cpus) - len(self.running)

    def start(self, task: Task) -> None:
        *needs, _ = in_order([task])
        needed = {other.key: self._parcel(other) for other in needs if self._is_there(other)}
        names = {one.source.name for one in (task, *needs)}
        options = {"num_cpus": task.threads, "num_gpus": self.gpus, "max_retries": RETRIES, "name": task.title}
        given = [packed(task), {name: [self.sources[name]] for name in names}, {k: [v] for k, v in needed.items()}]
        device, code = str(self.workshop.device), code_fingerprint()
        work = self.ray.remote(_work).options(**options)
        self.running[work.remote(*given, self.scratch, device, code, self.queue)] = task

    def finished(self) -> Sequence[tuple[Task, Made]]:
        ready, _ = self.ray.wait(list(self.running), timeout=WAIT_SECONDS)
        done = []
        for ref in ready:
            task = self.running.pop(ref)
            try:
                answer, parcel = self.ray.get(ref)
            except self.ray.exceptions.RayError as error:
                remedy = "look at its memory and at the machine's; what is finished is kept"
                raise ConfigError(task.title, f"its worker died {RETRIES + 1} times ({error})", remedy) from None
            if isinstance(answer, Exception):
                raise answer
            if parcel is not None:
                _unpack(self.workshop.pieces.folder_of(task), parcel)
            done.append((task, answer))
        return done

    def reports(self) -> Sequence[Report]:
        found: list[Report] = self.queue.get_nowait_batch(self.queue.qsize())
        return found

    def stop(self) -> None:
        for ref in self.running:
            self.ray.cancel(ref, force=True)
        self.queue.shutdown(force=True)

    def forget(self) -> None:
        """Delete what the machines of the cluster keep of this run."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        clean = self.ray.remote(_clean)
        for node in [node["NodeID"] for node in self.ray.nodes() if node["Alive"]]:
            where = NodeAffinitySchedulingStrategy(node, soft=True)
            self.ray.get(clean.options(num_cpus=0, scheduling_strategy=where).remote(self.scratch))

    def _is_there(self, task: Task) -> bool:
        return (self.workshop.pieces.folder_of(task) / MANIFEST).is_file()

    def _parcel(self, task: Task) -> Any:
        if task.key not in self.parcels:
            self.parcels[task.key] = self.ray.put(_parcel_of(self.workshop.pieces.folder_of(task)))
        return self.parcels[task.key]


# ---- on the worker

_SOURCES: dict[str, Source] = {}
_WORKSHOPS: dict[tuple[str, str], Workshop] = {}


def _work(
    data: bytes,
    sources: Mapping[str, list[Any]],
    needed: Mapping[str, list[Any]],
    scratch: str,
    device: str,
    code: str,
    queue: Any,
) -> tuple[Made | Exception, Parcel | None]:
    """Do a task on what was sent; what it gave, and the folder that it wrote, if it is one that writes its own."""
    if code_fingerprint() != code:
        problem = f"the machine {socket.gethostname()} has another medaegis than the one that owns the store"
        return ConfigError("--on ray", problem, "install the same one on every machine of the cluster"), None
    try:
        pick_device(device)
    except ConfigError as error:
        return error, None
    ray = _ray()
    _SOURCES.update({name: ray.get(refs[0]) for name, refs in sources.items() if name not in _SOURCES})
    if (scratch, device) not in _WORKSHOPS:
        _WORKSHOPS[scratch, device] = Workshop(_Scratch(_scratch(scratch)), device)
    workshop = _WORKSHOPS[scratch, device]
    assert isinstance(workshop.pieces, _Scratch), "it was made here"
    workshop.pieces.needed = {key: refs[0] for key, refs in needed.items()}
    task = unpacked(data, _SOURCES)
    made = do(workshop, task, queue.put_nowait)
    folder = workshop.pieces.folder_of(task)
    wrote = isinstance(made, Made) and (folder / MANIFEST).is_file()
    return made, _parcel_of(folder) if wrote else None


class _Scratch(Pieces):
    """What lies on a worker's machine; what a task needs is fetched when it is first asked for."""

    needed: Mapping[str, Any] = {}

    def folder_of(self, task: Task) -> Path:
        folder = super().folder_of(task)
        if task.key in self.needed and not (folder / MANIFEST).is_file():
            _unpack(folder, _ray().get(self.needed[task.key]))
        return folder


def _scratch(name: str) -> Path:
    """A folder on this machine that nobody else may enter."""
    folder = Path(tempfile.gettempdir()) / f"medaegis-cluster-{getpass.getuser()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    about = folder.lstat()
    if about.st_uid != os.getuid() or about.st_mode & 0o077 or folder.is_symlink():
        raise ConfigError(folder, "is not this user's own", "delete it, or set TMPDIR to another folder")
    (folder / name).mkdir(exist_ok=True)
    return folder / name


def _clean(name: str) -> None:
    shutil.rmtree(_scratch(name), ignore_errors=True)


def _parcel_of(folder: Path) -> Parcel:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def _unpack(folder: Path, parcel: Parcel) -> None:
    try:
        put_in_place(folder, parcel)
    except OSError as error:
        raise ArtefactError(folder, f"could not be written: {error.strerror}", DISK) from None


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise ConfigError("--on ray", "Ray is not installed", "pip install 'medaegis[cluster]'") from None
    return ray
