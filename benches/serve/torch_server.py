"""The peer of `peer.py`: a sentence encoder behind FastAPI, as a team would write it with PyTorch.

    python3 benches/serve/torch_server.py MODEL PORT

MODEL is a folder with a BERT-like encoder and its tokenizer. Vectors are means over tokens, of length 1. Texts of a
request are one batch, shorter ones padded; requests are handled by FastAPI's pool of threads, each computing with
all cores, which is what `def` endpoints do.
"""

import sys

import torch
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from transformers import AutoModel, AutoTokenizer

folder, port = sys.argv[1], int(sys.argv[2])
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModel.from_pretrained(folder).eval()
app = FastAPI()


class Request(BaseModel):
    input: str | list[str]


@app.post("/v1/embeddings")
def embeddings(request: Request):
    texts = [request.input] if isinstance(request.input, str) else request.input
    batch = tokenizer(texts, padding=True, truncation=True, max_length=256, return_tensors="pt")
    with torch.inference_mode():
        tokens = model(**batch).last_hidden_state
        mask = batch["attention_mask"].unsqueeze(-1).to(tokens.dtype)
        means = (tokens * mask).sum(1) / mask.sum(1)
        vectors = torch.nn.functional.normalize(means, dim=-1)
    data = [{"object": "embedding", "index": i, "embedding": v} for i, v in enumerate(vectors.tolist())]
    return {"object": "list", "data": data, "model": "peer"}


uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", access_log=False)
