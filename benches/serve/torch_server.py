"""A server as a Python team would write it: a sentence encoder in PyTorch behind FastAPI, answering as OpenAI's API does.

    python3 benches/serve/torch_server.py MODEL --port 8000

MODEL is a folder in the Hugging Face layout whose token vectors are averaged and brought to length 1, as
all-MiniLM-L6-v2's. Requests that wait are answered in one batch, longest first so that little is padding. Needs torch,
transformers, fastapi and uvicorn. `benches/serve/peer.py` starts it.
"""

import argparse
import asyncio
import contextlib

import torch
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from transformers import AutoModel, AutoTokenizer

# Texts that are gathered from requests, and of a batch, so that little of it is padding.
GATHERED, BATCH = 128, 32


class Request(BaseModel):
    input: str | list[str]


class Encoder:
    def __init__(self, folder):
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModel.from_pretrained(folder).eval()

    @torch.inference_mode()
    def embed(self, texts):
        order = sorted(range(len(texts)), key=lambda place: -len(texts[place]))
        found = [None] * len(texts)
        for start in range(0, len(order), BATCH):
            places = order[start : start + BATCH]
            tokens = self.tokenizer([texts[p] for p in places], padding=True, truncation=True, return_tensors="pt")
            states = self.model(**tokens).last_hidden_state
            mask = tokens["attention_mask"].unsqueeze(-1).float()
            means = (states * mask).sum(1) / mask.sum(1)
            vectors = torch.nn.functional.normalize(means, dim=1).tolist()
            for place, vector in zip(places, vectors):
                found[place] = vector
        return found


def application(folder):
    encoder = Encoder(folder)
    waiting = asyncio.Queue()

    async def work():
        while True:
            jobs = [await waiting.get()]
            while not waiting.empty() and sum(len(texts) for texts, _ in jobs) < GATHERED:
                jobs.append(waiting.get_nowait())
            texts = [text for own, _ in jobs for text in own]
            vectors = iter(await asyncio.to_thread(encoder.embed, texts))
            for own, done in jobs:
                vectors_of_job = [next(vectors) for _ in own]
                # Who asked may have gone.
                if not done.done():
                    done.set_result(vectors_of_job)

    @contextlib.asynccontextmanager
    async def lifespan(_):
        worker = asyncio.create_task(work())
        yield
        worker.cancel()

    app = FastAPI(lifespan=lifespan)

    @app.get("/health")
    async def health():
        return {"status": "ok"}

    @app.post("/v1/embeddings")
    async def embeddings(request: Request):
        texts = [request.input] if isinstance(request.input, str) else request.input
        done = asyncio.get_running_loop().create_future()
        await waiting.put((texts, done))
        data = [
            {"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(await done)
        ]
        return {"object": "list", "data": data, "model": "peer"}

    return app


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    uvicorn.run(application(arguments.model), host="127.0.0.1", port=arguments.port, log_level="warning")


if __name__ == "__main__":
    main()
