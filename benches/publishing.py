"""What is measured of `publish`: one function per row. The first line of each docstring is its title in --list."""

import json
import os
import shutil
import socket
import subprocess
import time

from harness import MIB, mib, registry
from rows import random_file

ROWS = []
row = registry("publish", ROWS)

MACHINE = {"x86_64": "x64", "aarch64": "arm64"}[os.uname().machine]


def bundle(directory, agents):
    path = os.path.join(directory, "bundle.json")
    with open(path, "w", encoding="utf-8") as file:
        json.dump({"agents": agents}, file)
    return path


@row("tarball")
def tarball(bench):
    """Tarball and sha256 of a 500 MB image: against podman save | gzip > F && sha256sum F"""
    size = 50 if bench.quick else 500
    work = bench.directory("tarball")
    bench.library('big_rootfs "$1/rootfs" "$2" "$3"; make_archive "$1/rootfs" localhost/bench-publish:1 "$1/image.tar"', work, str(size * 4 // 5), str(size // 5))
    bench.podman("load", "-q", "-i", os.path.join(work, "image.tar"))
    with open(os.path.join(work, "Containerfile"), "w", encoding="utf-8") as file:
        file.write("FROM localhost/bench-publish:1\n")
    of = bundle(work, [{"name": "big", "image": "localhost/bench-published", "version": "1", "context": work}])
    # The context is the Containerfile alone.
    shutil.rmtree(os.path.join(work, "rootfs"))
    os.unlink(os.path.join(work, "image.tar"))
    plain = os.path.join(bench.scratch, "F.tar.gz")
    sizes = {}

    def ours():
        out = bench.directory("tarball-dist")
        run = bench.run(bench.steadfast, "publish", "tarball", "--bundle", of, "--arch", MACHINE, "--out", out, "-o", "json", memory=True)
        made = json.loads(run.stdout)[0]
        sizes["ours"], sizes["peak"] = made["sizeBytes"], max(run.rss, sizes.get("peak", 0))
        return run.seconds

    def theirs():
        took = bench.run("sh", "-c", 'podman --url "$1" save localhost/bench-publish:1 | gzip >"$2" && sha256sum "$2"', "sh", bench.socket, plain).seconds
        sizes["theirs"] = os.path.getsize(plain)
        return took

    peer = "podman save \\| gzip > F && sha256sum F"
    results = bench.turns(bench.rounds(3), {"steadfast": ours, peer: theirs})
    bench.compare("tarball + sha256 of a %d MB image" % size, results, "steadfast", "≥ 1.5× faster", lambda mine, best: best / mine, lambda ratio: ratio >= 1.5)
    bench.add("its size", mib(sizes["ours"] // 1024), "%s %s" % (peer, mib(sizes["theirs"] // 1024)), "%.3f×" % (sizes["ours"] / sizes["theirs"]),
              "the same or smaller", sizes["ours"] <= sizes["theirs"])
    bench.add("its peak memory", mib(sizes["peak"]), "", "", "constant: ≤ 96 MiB", sizes["peak"] <= 96 * 1024)


@row("upload")
def upload(bench):
    """Upload of 1 GiB to a store on loopback: against `aws s3 cp` and rclone; its peak memory"""
    size, name = (128 * MIB, "128 MiB") if bench.quick else (1024 * MIB, "1 GiB")
    work = bench.directory("upload")
    source = os.path.join(work, "F")
    random_file(source, size)
    os.makedirs(os.path.join(work, "store", "agents"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = "http://127.0.0.1:%d" % port
    gateway = subprocess.Popen(
        [os.environ["BENCH_VERSITYGW"], "--port", "127.0.0.1:%d" % port, "--quiet", "posix", os.path.join(work, "store")],
        env=dict(os.environ, ROOT_ACCESS_KEY="test", ROOT_SECRET_KEY="secret"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    env = dict(bench.env, AWS_ACCESS_KEY_ID="test", AWS_SECRET_ACCESS_KEY="secret", AWS_REGION="us-east-1", AWS_ENDPOINT_URL=url, AWS_CONFIG_FILE="/dev/null")
    peaks = {}

    def contestant(title, *command):
        def turn():
            shutil.rmtree(os.path.join(work, "store", "agents"))
            os.makedirs(os.path.join(work, "store", "agents"))
            run = bench.run(*command, env=env, memory=True)
            assert os.path.getsize(os.path.join(work, "store", "agents", "k")) == size
            peaks[title] = max(run.rss, peaks.get(title, 0))
            return run.seconds

        return turn

    peers = os.environ["BENCH_S3_PEERS"]
    try:
        end = time.monotonic() + 20
        while socket.socket().connect_ex(("127.0.0.1", port)) and time.monotonic() < end:
            time.sleep(0.05)
        remote = ":s3,provider=Other,env_auth=true,endpoint='%s',region=us-east-1:agents/k" % url
        results = bench.turns(bench.rounds(), {
            "steadfast": contestant("steadfast", bench.steadfast, "publish", "upload", "--file", source, "--key", "k", "--to", "s3://agents"),
            "aws s3 cp": contestant("aws", os.path.join(peers, "aws"), "s3", "cp", "--quiet", "--endpoint-url", url, source, "s3://agents/k"),
            "rclone copyto": contestant("rclone", os.path.join(peers, "rclone"), "copyto", "--s3-no-check-bucket", source, remote),
        })
    finally:
        gateway.kill()
        gateway.wait()
    bench.compare("upload of %s to a store on loopback" % name, results, "steadfast", "not slower than the faster", lambda mine, best: best / mine, lambda ratio: ratio >= 1)
    bench.add("its peak memory", mib(peaks["steadfast"]), "aws s3 cp %s<br>rclone copyto %s" % (mib(peaks["aws"]), mib(peaks["rclone"])), "", "< 64 MiB",
              peaks["steadfast"] < 64 * 1024)


@row("hash")
def hashing(bench):
    """Hashing 10 × 500 MB for a manifest: against one sha256sum per core"""
    count, size = (4, 50) if bench.quick else (10, 500)
    work = bench.directory("hash")
    names = ["a%d" % number for number in range((count + 1) // 2)]
    of = bundle(work, [{"name": name, "image": "localhost/" + name, "version": "1"} for name in names])
    os.makedirs(os.path.join(work, "images"))
    paths = [os.path.join(work, "images", "%s-1-%s.tar.gz" % (name, arch)) for name in names for arch in ("arm64", "x64")]
    for path in paths:
        random_file(path, size * MIB)
        with open(path, "r+b") as file:
            file.write(b"\x1f\x8b")
        bench.run("sh", "-c", 'cd "$1" && sha256sum "$2" >"$2.sha256"', "sh", os.path.dirname(path), os.path.basename(path))
    cores = str(os.cpu_count())

    def ours():
        out = os.path.join(work, "manifest.json")
        return bench.run(bench.steadfast, "publish", "manifest", "--bundle", of, "--dist-dir", work, "--out", out).seconds

    def theirs():
        return bench.run("sh", "-c", 'printf "%s\\0" "$@" | xargs -0 -n 1 -P ' + cores + " sha256sum", "sh", *paths).seconds

    results = bench.turns(bench.rounds(3), {"steadfast": ours, "sha256sum, %s at once" % cores: theirs})
    shutil.rmtree(work)
    bench.compare("hashing %d × %d MB for a manifest" % (len(paths), size), results, "steadfast", "≥ 1.8× faster", lambda mine, best: best / mine, lambda ratio: ratio >= 1.8)
