#!@python@ -IB
"""llama-server: llama.cpp's own HTTP server, as the xllamacpp package carries it, with llama.cpp's usual flags."""

import argparse
import os
import signal
import sys

sys.path.insert(0, "@site@")


def parse(argv):
    parser = argparse.ArgumentParser(prog="llama-server", allow_abbrev=False)

    def option(*names, **rest):
        variable = "LLAMA_ARG_" + names[-1].lstrip("-").replace("-", "_").upper()
        parser.add_argument(*names, **{**rest, "default": os.environ.get(variable, rest.get("default"))})

    option("-m", "--model", metavar="FILE")
    option("--host", default="127.0.0.1")
    option("--port", type=int, default=8080)
    option("-c", "--ctx-size", type=int, default=0, help="0: as the model says")
    option("-t", "--threads", type=int, default=len(os.sched_getaffinity(0)))
    option("-np", "--parallel", type=int, default=1)
    option("-n", "--n-predict", type=int, default=-1)
    option("-a", "--alias", metavar="NAME")
    parser.add_argument("--metrics", action="store_true", help="serve /metrics")
    parser.add_argument("--embeddings", action="store_true", help="serve embeddings only")
    args = parser.parse_args(argv)
    if not args.model:
        parser.error("a model is needed: --model FILE or LLAMA_ARG_MODEL")
    if not os.path.isfile(args.model):
        parser.error(f"no such model file: {args.model}")
    return args


def main():
    args = parse(sys.argv[1:])
    # The server's threads inherit the mask, so that only this one takes the signal, even as process 1 of a container.
    stop = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, stop)

    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = args.model
    params.model_alias = {args.alias or os.path.basename(args.model)}
    params.hostnames = [args.host]
    params.port = args.port
    params.n_ctx = args.ctx_size
    params.n_parallel = args.parallel
    params.n_predict = args.n_predict
    params.cpuparams.n_threads = args.threads
    params.cpuparams_batch.n_threads = args.threads
    params.endpoint_metrics = args.metrics
    params.embedding = args.embeddings
    server = xllamacpp.Server(params)
    print(f"llama-server: listening on {server.listening_address}", file=sys.stderr, flush=True)
    signal.sigwait(stop)
    os._exit(0)  # nothing to save; the server's own shutdown may wait for open connections


main()
