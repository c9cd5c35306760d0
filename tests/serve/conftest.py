"""One engine and one server for all tests of a worker: compiling them takes longer than all tests together.

jgpt is imported late: the jaxtyping hook must stand before the package loads.
"""

import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

SLOTS, QUEUE = 4, 6
ROWS, NEW = 8, 24  # of the one shape in which expectations are computed


@pytest.fixture(scope="session")
def tiny() -> Any:
    """Return a random model."""
    from tiny_server import tiny_gpt

    return tiny_gpt()


@pytest.fixture(scope="session")
def expect(tiny: Any) -> Any:
    """Return a function: (task, [(request, sampling)], seed or seeds) to what `sample` draws.

    All calls share one compiled shape: rows that ask for every stage, and a long prompt, fill the batch up.
    """
    from jgpt.decoder import decoder_for
    from jgpt.sampler import Samples, sample
    from jgpt.sampling import Allowed, Sampling

    decoder = decoder_for(tiny.model, tiny.tokenizer.size)
    params = tiny.prepared
    busy = Sampling(top_k=3, typical_p=0.9, presence_penalty=0.1, logit_bias=((20, 0.1), (21, 0.1)))

    def drawn(name: str, rows: list, seeds: Any) -> Samples:
        task, count = tiny.tasks[name], len(rows)
        prompts = [task.prompt(request).tokens for request, _ in rows]
        prompts += [15 + np.arange(40 - i, dtype=np.int32) % 30 for i in range(ROWS - count)]
        prompt = task.prompt(rows[0][0])
        found = sample(
            decoder,
            params,
            prompts,
            max_new_tokens=NEW,
            sampling=[*(sampling for _, sampling in rows), *[busy] * (ROWS - count)],
            seeds=seeds if isinstance(seeds, int) else [*seeds, *[0] * (ROWS - count)],
            stop_ids=prompt.stop_ids,
            allowed=Allowed.phases([(phase.ids, phase.count) for phase in prompt.phases], tiny.tokenizer.size),
            top=4,
            pad_id=0,
        )
        return Samples(*(field[:count] for field in found))

    return drawn


@pytest.fixture(scope="session")
def running(tiny: Any) -> Iterator[SimpleNamespace]:
    """Yield a planner and a warm engine."""
    from jgpt.serve.engine import Engine
    from jgpt.serve.planning import Planner

    planner = Planner(tiny, "tiny")
    slots = planner.make_slots(SLOTS)
    for _ in slots.warm_up():
        pass
    with Engine(slots, queue=QUEUE) as engine:
        yield SimpleNamespace(planner=planner, engine=engine, gpt=tiny)


@pytest.fixture(scope="session")
def served(running: SimpleNamespace) -> Iterator[SimpleNamespace]:
    """Yield a server in a thread: url, service, and the rest of `running`."""
    import uvicorn

    from jgpt.serve.app import Limits, Service
    from jgpt.serve.server import Server, listen

    service = Service(running.planner, running.engine, Limits(body=4000, seconds=30.0), step=7)
    listener = listen("127.0.0.1", 0)
    server = Server(uvicorn.Config(service.app(), lifespan="off", log_level="critical"), service, 1.0)
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    yield SimpleNamespace(url=url, service=service, **vars(running))
    server.should_exit = True
    thread.join()
