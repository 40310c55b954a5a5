"""Try and measure the script on a GPU: python tests/measure/gpu.py --data_dir data --out gpu

Writes results.json after each part, and pictures, into --out. Needs PyTorch with CUDA, and MNIST.
--device cpu --quick tries the script itself, with tiny sizes, where there is no GPU.

- right: each preset takes a step on the GPU and on the CPU from the same weights, images and random
  numbers, in fp32; a resumed run equals an undisturbed one; samples of both devices agree
- fast: images/s of the step, and the share of it for which the GPU waits for Python; the same as
  one CUDA graph; the customary loop of benchmark.py
- good: the defaults, and a conditional run, to their ends: seconds, FD of 10,000 samples, memory
- dcgan: two minutes of each of the DCGANs, with their grids
"""

import argparse
import contextlib
import json
import platform
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(Path(__file__).parent))

import benchmark

import gan_mnist

PARTS = ("right", "fast", "good", "dcgan")


def wait(device):
    """Wait until the GPU has done all that it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


@contextlib.contextmanager
def random_numbers_of_the_cpu():
    """Let torch.randn and torch.rand draw on the CPU, the same for every device."""
    originals = {name: getattr(torch, name) for name in ("randn", "rand")}
    for name, original in originals.items():

        def draw(*size, device=None, original=original, **rest):
            return original(*size, **rest).to(device)

        setattr(torch, name, draw)
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(torch, name, original)


def make_gan(device, preset="none", **settings):
    """Return a GAN of a preset for images of its size, with as many random images and labels."""
    settings = {"preset": preset, "device": device, "dropout": 0.0, **settings}
    config = gan_mnist.make_config(**settings)
    size = config.image_size or 28
    channels = 3 if config.dataset == "cifar10" else 1
    n = config.batch_size * config.d_steps
    generator = torch.Generator().manual_seed(0)
    real = torch.rand(n, channels, size, size, generator=generator) * 2 - 1
    labels = torch.randint(10, (n,), generator=generator)
    facts = {"dataset": config.dataset, "images": 60_000, "checksum": "", "classes": 10}
    gan = gan_mnist.GAN(config, real.shape[1:], {**facts, "class_names": list("0123456789")})
    return gan, real.to(gan.device), labels.to(gan.device)


def compare_a_step(device, preset, batch_size):
    """Return the largest differences between a step on the device and one on the CPU.

    Both start with the same weights, which are made on the CPU. With plain gradient descent in the
    place of Adam, whose first step is the sign of the gradient.
    """
    results = []
    for where in ("cpu", device):
        gan, real, labels = make_gan(where, preset, precision="fp32", batch_size=batch_size)
        for name, network in (("optimizer_g", gan.G), ("optimizer_d", gan.D)):
            setattr(gan, name, torch.optim.SGD(network.parameters(), 0.1))
        torch.manual_seed(1)
        with random_numbers_of_the_cpu():
            losses = gan.train_step(real, labels).cpu()
        weights = [p.detach().cpu() for net in (gan.G, gan.D) for p in net.parameters()]
        results.append((losses, weights))
    (losses, weights), (losses_there, weights_there) = results
    pairs = zip(weights, weights_there, strict=True)
    return {
        "losses": (losses - losses_there)[:2].abs().max().item(),
        "weights": max((a - b).abs().max().item() for a, b in pairs),
    }


def right(options):
    """Return what is compared with the CPU: steps of all presets, a resumed run, samples."""
    torch.backends.cudnn.allow_tf32 = False  # 10 bits in convolutions, which is no error
    steps = {}
    for preset in ("none", *gan_mnist.PRESETS):
        steps[preset] = compare_a_step(options.device, preset, options.batch_size)
        print(preset, steps[preset], flush=True)
    torch.backends.cudnn.allow_tf32 = True

    settings = {"device": options.device, "dataset": options.dataset, "metrics_every": 0}
    settings["data_dir"] = options.data_dir
    finals = []
    for name, lengths in (("straight", [2]), ("resumed", [1, 2])):
        folder = options.out / name
        folders = {"samples_dir": folder, "checkpoint_dir": folder, "overwrite": True}
        for epochs in lengths:
            G, _ = gan_mnist.train_gan(**settings, **folders, epochs=epochs)
            folders = {**folders, "overwrite": False, "resume": True}
        finals.append(G.state_dict())
    tensors = [name for name, value in finals[0].items() if torch.is_tensor(value)]
    equal = all(torch.equal(finals[0][name], finals[1][name]) for name in tensors)

    path = options.out / "straight" / "generator_final.pth"
    images = {}
    for device in ("cpu", options.device):
        G = gan_mnist.load_generator(path, device)
        images[device] = gan_mnist.to_uint8(G.sample(1000, seed=0)).cpu().int()
    difference = (images["cpu"] - images[options.device]).abs().max().item()
    return {"steps": steps, "resumed run is equal": equal, "greys of samples differ by": difference}


class GraphedStep:
    """A training step of a GAN as two CUDA graphs: with the gradient penalty and without."""

    def __init__(self, gan, real, labels):
        self.gan = gan
        self.real = real.clone()
        self.labels = labels.clone()
        for optimizer in (gan.optimizer_g, gan.optimizer_d):
            group = optimizer.param_groups[0]
            group["capturable"] = True
            group["lr"] = torch.tensor(group["lr"], device=gan.device)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self.take(steps=0)
                self.take(steps=1)
        torch.cuda.current_stream().wait_stream(stream)
        self.graphs = {}
        self.losses = {}
        for steps in (0, 1):  # of which step 0 has the penalty
            self.graphs[steps] = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graphs[steps]):
                self.losses[steps] = self.take(steps)
        gan.steps = 0

    def take(self, steps):
        """Take a step as the one of this number, in which no average is brought up to date."""
        self.gan.steps = steps
        return self.gan.train_step(self.real, self.labels)

    def __call__(self, real, labels):
        self.real.copy_(real)
        self.labels.copy_(labels)
        gan = self.gan
        kind = 1
        if gan.steps % gan_mnist.PENALTY_EVERY == 0:
            kind = 0
        self.graphs[kind].replay()
        gan.steps += 1
        if gan.steps % gan_mnist.AVERAGE_EVERY == 0:
            gan.update_average()
        return self.losses[kind]


def rate(step, images, seconds, device):
    """Return images/s of step(), and the share of the time that Python took to ask for it."""
    for _ in range(20):
        step()
    wait(device)
    start = time.perf_counter()
    count = 0
    while time.perf_counter() - start < seconds:
        step()
        count += 1
    host = time.perf_counter() - start
    wait(device)
    total = time.perf_counter() - start
    return {"images per second": count * images / total, "host": host / total}


def fast(options):
    """Return rates of the step in some sizes, eager and as a graph, and of the customary loop."""
    results = {}
    for batch_size in options.batch_sizes:
        for precision in ("fp32", "bf16"):
            settings = {"precision": precision, "batch_size": batch_size}
            gan, real, labels = make_gan(options.device, **settings)
            kinds = {"eager": gan.train_step}
            if options.device == "cuda":
                kinds["graph"] = GraphedStep(*make_gan(options.device, **settings))
            for kind, step in kinds.items():
                name = f"{batch_size} {precision} {kind}"
                do = lambda step=step, real=real, labels=labels: step(real, labels)  # noqa: E731
                results[name] = rate(do, batch_size, options.seconds, options.device)
                print(name, results[name], flush=True)
    config = gan_mnist.make_config(device="cpu")
    images, labels = gan_mnist.load_bundle()
    steps = benchmark.customary_steps(images, labels, config, options.device)
    do = lambda: next(steps)  # noqa: E731
    name = f"{config.batch_size} customary"
    results[name] = rate(do, config.batch_size, options.seconds, options.device)
    print(name, results[name], flush=True)
    return results


def train(options, preset, seconds=None, **settings):
    """Train a preset to its end, or for so many seconds -> what it took, and how good it became."""
    folder = options.out / preset
    start = time.perf_counter()
    folders = {"samples_dir": folder, "checkpoint_dir": folder, "overwrite": True}
    settings = {"data_dir": options.data_dir, "device": options.device, **settings}
    run = gan_mnist.training(preset=preset, **folders, **settings)
    for gan in run:
        trained = gan
        if seconds and time.perf_counter() - start > seconds:
            run.close()
    result = {"epochs": trained.epoch, "seconds": time.perf_counter() - start}
    result["rates"] = [round(row["images_per_second"]) for row in trained.history]
    if options.device == "cuda":
        result["gigabytes"] = torch.cuda.max_memory_allocated() / 1e9
    if trained.data["dataset"] in ("mnist", "mnist_5k"):
        judge = gan_mnist.load_judge("mnist", options.data_dir)
        features, _ = judge.predict(gan_mnist.to_uint8(trained.generator().sample(10_000, seed=1)))
        result["FD of 10,000 samples"] = judge.fd(features)
    print(preset, result, flush=True)
    return result


def good(options):
    """Return results of the defaults and of a conditional run."""
    settings = {"epochs": options.epochs, "save_every": 10, "dataset": options.dataset}
    return {preset: train(options, preset, **settings) for preset in ("none", "conditional")}


def dcgan(options):
    """Return results of the DCGANs after some time; of CIFAR-10 only if it is in --data_dir."""
    results = {}
    presets = ["dcgan_mnist"]
    if options.quick:  # an epoch of 60,000 images of 64 x 64 is too long
        return {"left out": presets}
    if (options.data_dir / "cifar-10-batches-py").exists():
        presets.append("dcgan_cifar10")
    for preset in presets:
        settings = {"epochs": options.dcgan_epochs, "metrics_every": 0, "keep_checkpoints": 1}
        results[preset] = train(options, preset, options.dcgan_seconds, **settings)
    return results


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data_dir", type=Path, default=ROOT / "data")
    parser.add_argument("--out", type=Path, default=Path("gpu"))
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to try this script")
    options = parser.parse_args()
    options.seconds, options.epochs, options.batch_size = 3, 60, 32
    options.batch_sizes = (64, 128, 1024)
    options.dcgan_seconds, options.dcgan_epochs = 120, 100
    options.dataset = "mnist"
    if options.quick:
        gan_mnist.EPOCH_IMAGES = 1000
        gan_mnist.PRESETS["dcgan_mnist"]["width"] = 4
        gan_mnist.PRESETS["dcgan_cifar10"]["width"] = 4
        options.seconds, options.epochs, options.batch_size = 0.1, 1, 4
        options.batch_sizes = (64,)
        options.dcgan_seconds, options.dcgan_epochs = 5, 1
        options.dataset = "mnist_5k"
    options.out.mkdir(parents=True, exist_ok=True)
    machine = platform.processor() or platform.machine()
    if options.device == "cuda":
        machine = torch.cuda.get_device_name()
    results = {"machine": machine, "torch": torch.__version__}
    for part in options.parts:
        start = time.perf_counter()
        results[part] = globals()[part](options)
        results[part]["seconds of this part"] = time.perf_counter() - start
        (options.out / "results.json").write_text(json.dumps(results, indent=1))
    print(f"Wrote {options.out / 'results.json'}")


if __name__ == "__main__":
    main()
