"""SceneGraphParser on captions: JSON lines with their graphs, written as FACTUAL writes graphs.

    python peer.py DATA.jsonl OUT.jsonl [--spacy-model en_core_web_sm]

SceneGraphParser reads its graphs off spaCy's dependency parse. With --spacy-model that parse is a trained model's.
No registry this was made with carries one, so without the option a stand-in makes it: TextBlob's tagger, whose word
list is in its package, and heads by the rules below, which do well on text as plain as captions. The rules that
make a graph of the parse are SceneGraphParser's either way.
"""

import argparse
import json
import time

import spacy
from spacy.tokens import Doc
from textblob.en import tag as pattern_tag

POS = {"NN": "NOUN", "NNS": "NOUN", "NNP": "NOUN", "NNPS": "NOUN", "JJ": "ADJ", "JJR": "ADJ", "JJS": "ADJ",
       "IN": "ADP", "TO": "ADP", "DT": "DET", "CD": "NUM", "CC": "CCONJ", "RB": "ADV", "PRP": "PRON",
       "PRP$": "PRON", "POS": "PART", ".": "PUNCT", ",": "PUNCT"}
BE = {"is", "are", "was", "were", "be", "being", "been"}


def heads(words, tags):
    """Head and label of every word, in the manner of spaCy's English models."""
    head, dep = list(range(len(words))), ["dep"] * len(words)

    def attach(child, parent, label):
        head[child], dep[child] = parent, label

    subject = last = verb = prep = None  # the clause's subject, the last noun, an open verb, an open preposition
    copula = joined = False
    at = 0
    while at < len(words):
        end = at
        while end < len(words) and (tags[end] in ("DT", "CD", "PRP$", "PRP", "WDT") or tags[end][:2] in ("JJ", "NN")
                                    or tags[end] in ("VBN", "VBG") and end + 1 < len(words) and tags[end + 1][:2] == "NN"
                                    and (end > at or at == 0)):
            end += 1
        while end > at and tags[end - 1][:2] != "NN" and tags[end - 1] != "PRP":
            end -= 1
        if words[at] in ("next", "close") and at + 1 < len(words) and words[at + 1] == "to":
            anchor = verb if verb is not None and last is not None and verb > last else last
            if anchor is not None:
                attach(at, anchor, "advmod")
                attach(at + 1, at, "prep")
                prep = at + 1
            at += 2
            continue
        if end > at:
            noun = end - 1
            for word in range(at, noun):
                label = {"DT": "det", "CD": "nummod", "PRP$": "poss"}.get(tags[word])
                attach(word, noun, label or ("compound" if tags[word][:2] == "NN" else "amod"))
            if prep is not None:
                attach(noun, prep, "pobj")
                prep = None
            elif joined and last is not None:
                attach(noun, last, "conj")
            elif verb is not None:
                attach(noun, verb, "attr" if words[verb] in BE else "dobj")
            else:
                dep[noun] = "ROOT"
                subject = noun
            if not joined:
                last = noun
            joined, at = False, end
            continue
        word, tag = words[at], tags[at]
        if tag in ("IN", "TO"):
            fresh = verb is not None and (last is None or verb > last)
            anchor = verb if fresh else last
            if anchor is not None:
                passive = word == "by" and fresh and tags[verb] == "VBN"
                attach(at, anchor, "agent" if passive else "prep")
                prep = at
        elif word in BE:
            copula, verb = True, at
            dep[at] = "ROOT"
            if subject is not None:
                attach(subject, at, "nsubj")
        elif tag[:2] == "VB":
            if tag in ("VBG", "VBN") and not copula and last is not None:
                attach(at, last, "acl")
            else:
                dep[at] = "ROOT"
                if copula and verb is not None:
                    attach(verb, at, "auxpass" if tag == "VBN" else "aux")
                if subject is not None:
                    attach(subject, at, "nsubjpass" if copula and tag == "VBN" else "nsubj")
            verb, copula = at, False
        elif tag[:2] == "JJ" and verb is not None and words[verb] in BE:
            attach(at, verb, "acomp")
        elif tag == "CC" and last is not None:
            attach(at, last, "cc")
            joined = True
        at += 1
    return head, dep


class StandIn:
    """What spaCy calls a pipeline."""

    def __init__(self):
        self.vocab = spacy.blank("en").vocab

    def __call__(self, text):
        words = text.split() or ["."]
        tags = [tag for _, tag in pattern_tag(" ".join(words), tokenize=False)]
        tags = (tags + ["NN"] * len(words))[: len(words)]
        pos = [POS.get(tag, "VERB" if tag[:2] == "VB" else "X") for tag in tags]
        head, dep = heads(words, tags)
        return Doc(self.vocab, words=words, tags=tags, pos=pos, heads=head, deps=dep, lemmas=words)


def facts(graph):
    """A SceneGraphParser graph as facts; articles are no attributes."""
    names = [entity["lemma_head"] for entity in graph["entities"]]
    found = [(names[relation["subject"]], relation["relation"], names[relation["object"]])
             for relation in graph["relations"]]
    for name, entity in zip(names, graph["entities"]):
        found += [(name, "is", modifier["span"]) for modifier in entity["modifiers"] if modifier["dep"] != "det"]
    spoken = {fact[0] for fact in found} | {fact[2] for fact in found if fact[1] != "is"}
    return found + [(name,) for name in names if name not in spoken]


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("data")
    arguments.add_argument("out")
    arguments.add_argument("--spacy-model")
    arguments = arguments.parse_args()
    if not arguments.spacy_model:
        spacy.load = lambda name: StandIn()
    import sng_parser

    parser = sng_parser.Parser("spacy", model=arguments.spacy_model or "en_core_web_sm")
    captions = [json.loads(line)["caption"] for line in open(arguments.data, encoding="utf-8")]
    parser.parse("a dog on a mat")
    start = time.perf_counter()
    graphs = [parser.parse(caption.lower()) for caption in captions]
    seconds = time.perf_counter() - start
    with open(arguments.out, "w", encoding="utf-8") as out:
        for caption, graph in zip(captions, graphs):
            written = " , ".join(f"( {' , '.join(fact)} )" for fact in facts(graph))
            out.write(json.dumps({"caption": caption, "graph": written}) + "\n")
    versions = {"spacy": spacy.__version__, "model": arguments.spacy_model}
    print(json.dumps({"captions_per_second": len(captions) / seconds, **versions}))


if __name__ == "__main__":
    main()
