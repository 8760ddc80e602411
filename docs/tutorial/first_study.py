# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A first study on real micrographs
#
# You have a dozen electron micrographs in which somebody has painted the particles, and many more without. This notebook
# goes the whole way from the first to numbers about the second: look at the data, check it, train, search a little, choose,
# train the final model, and measure particles. It takes about two minutes on 2 cores, longer where others compute too.
#
# **Read this first.** Twelve images and seconds of training give a poor model. What you learn here is the way; the same
# cells with your own folder, larger networks and hours give a good one.
#
# To run it yourself, set sage_ray up from its source (`make setup`), and copy the cells into a notebook one by one; or make
# a notebook of the file that this page is made from, and open that:
#
# ```
# pip install jupyterlab jupytext
# jupytext --to notebook docs/tutorial/first_study.py
# jupyter lab docs/tutorial/first_study.ipynb
# ```
#
# The micrographs are twelve of the 465 of EMPS (Yildirim and Cole 2021, MIT licence), which come with the source of
# sage_ray. `sage-ray data fetch emps` gets all of them.

# %%
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

import sage_ray

here = Path.cwd()
DATA = next(p / "tests/data/emps" for p in (here, *here.parents) if (p / "tests/data/emps").is_dir())
# Everything that is trained lies here. For your own work choose a folder that stays.
HOME = Path(tempfile.mkdtemp()) / "home"

# %% [markdown]
# ## 1. Look at the data
#
# A data folder has `images/` and `segmaps/` (or `masks/`), paired by name. In these masks 0 is background and each particle
# has a number of its own. Masks with two values, colours, or drawings of ImageJ are read as well
# ([data folders](../data_folders.md)).

# %%
names = sorted(path.name for path in (DATA / "images").iterdir())
figure, axes = plt.subplots(2, 4, figsize=(8, 4.1), layout="constrained")
for column, name in zip(axes.T, names[:4], strict=True):
    mask = np.asarray(Image.open(DATA / "segmaps" / name))
    column[0].imshow(Image.open(DATA / "images" / name).convert("L"), cmap="gray")
    column[0].set_title(name[:10], fontsize=8)
    column[1].imshow(np.ma.masked_equal(mask, 0), cmap="viridis", interpolation="nearest")
    column[1].set_title(f"{len(np.unique(mask)) - 1} particles", fontsize=8)
for axis in axes.flat:
    axis.set_xticks([])
    axis.set_yticks([])
plt.show()

# %% [markdown]
# ## 2. Check it
#
# Before anything is trained: does every image have its mask, can all files be read, does a mask look as if it belonged to
# another image? `coverage` is the share of an image that is particle, `objects` counts particles. What is worth a look
# stands below the table. Here, two of the images seem to have an information bar at the bottom and the others none: they
# come from many papers, and we leave them as they are. Two files are no images (a licence and a note).
# (In a terminal: `sage-ray data check FOLDER`.)

# %%
checked = sage_ray.check(DATA)
checked

# %% [markdown]
# ## 3. Train once
#
# A *config* says all about a training. We start from a shipped preset, a small SAGE-GAN, and change what we need:
# the folder, the size at which the network sees the images, and how long it trains.
#
# SAGE-GAN trains in two phases. In phase 1 (`pretrain`) an attention U-Net, the *segmenter*, learns masks from the labelled
# pairs. In phase 2 (`adversarial`) a second network draws micrographs from masks, and the segmenter learns on from both.
#
# sage_ray splits the images by their content: some train, some (*validation*) choose the epoch and the settings, and some
# are the *locked test*, which is looked at once, at the very end.

# %%
SETTINGS = {
    "data.path": str(DATA),
    "data.image_size": [64, 64],
    "pretrain.epochs": 50,
    "pretrain.batch_size": 2,
    "adversarial.epochs": 8,
    "adversarial.batch_size": 2,
    "runtime.threads": 1,
    "runtime.pictures": False,
}
run = sage_ray.train("tiny_sage_gan", HOME, sets=SETTINGS)
run

# %% [markdown]
# `dice` compares a predicted mask with the painted one: 0 if they share no pixel, 1 if they are equal.
# `f1_object_50` counts particles: it is 1 if each painted particle was found, and nothing else was.
# The table is of the epoch that did best on the validation images (`selected epoch`), so that its Dice may be higher than
# that of the last epoch, in the line above it. Two validation images are far too few to trust either number; it is what
# twelve images can give.

# %% [markdown]
# ## 4. A small search
#
# Which settings are best? A *study* tries some. The shipped search `search_tiny` varies three settings of phase 2: the
# weight of the cycle terms, the learning rate, and how the predicted mask is handed to the generator
# (`sage-ray config show --explain adversarial.mask_path` says what a setting means). We ask for three *trials*.
# The first one is the preset itself, so that there is something to compare with. All three need the same phase 1, and the
# training above has done it already: it is taken from the store, and only phase 2 is computed. The first trial is the whole
# training above, so nothing is left to compute for it.
#
# `plan` says what a study takes before it runs.

# %%
STUDY = {**SETTINGS, "trials": 3, "scheduler": {"name": "fifo"}, "concurrency": 1}
sage_ray.plan("search_tiny", HOME, sets=STUDY)

# %% [markdown]
# Now run it. The table changes while trials train. Interrupt the kernel whenever you like: the study ends in an orderly
# way and tells how to go on (`sage_ray.resume("first", HOME)`), and nothing that was trained is lost.

# %%
study = sage_ray.sweep("search_tiny", HOME, name="first", sets=STUDY)
study

# %% [markdown]
# ## 5. Compare the trials, and choose
#
# `frame()` gives any result as a pandas data frame. `value` is what trials are judged by: the median Dice of the last fifth
# of the epochs of phase 2 on the validation images (a *plateau*, which flatters less than the best epoch).

# %%
trials = study.frame()[["number", "state", "value", "adversarial.lambda_cycle", "adversarial.lr"]]
trials.sort_values("value", ascending=False)

# %%
best = sage_ray.best("first", HOME)
best

# %% [markdown]
# The highest value need not win. Trials that lie within one standard error of the top are equally good as far as two images
# can tell (`within`), and of these the cheapest is taken: that is the rule below the table. A trial that is further behind
# can count as equal, and one that is closer not, if its difference varies more from image to image. With three trials and
# two images, read the choice as an example and not as a finding.

# %% [markdown]
# ## 6. The final model
#
# The chosen settings are trained anew on training and validation images together, with two *seeds* (two different
# random beginnings), and each is scored once on the locked test images, which nothing has seen so far. The first seed is
# registered as a version of the model, whatever the scores: which one was decided before.

# %%
final = sage_ray.final("first", HOME, seeds=[0, 1])
final

# %% [markdown]
# How far the two seeds lie apart is how much of a score is luck. The last row is over both; its interval says where the
# mean over further images like these, and further seeds, is likely to lie. From two images it is wide, as it should be. With
# several versions `sage_ray.compare(HOME)` puts them side by side, each with the difference to a reference and a verdict.

# %%
sage_ray.compare(HOME)

# %% [markdown]
# ## 7. Predict, and count particles
#
# In real use, these are images without masks. Here we take the same twelve, most of which the model has learnt from, so
# that there is something to hold the numbers against; scores on them would flatter.
#
# `predict` brings each image to the scale that the model knows, writes its mask, tells particles that touch apart, and
# measures each one.

# %%
prediction = sage_ray.predict(final.uri, DATA / "images", HOME.parent / "masks", home=HOME)
images = prediction.frame().set_index("image")
painted = {name: len(np.unique(np.asarray(Image.open(DATA / "segmaps" / name)))) - 1 for name in names}
images["painted"] = [painted[name] for name in images.index]
images[["particles", "painted", "coverage"]]

# %% [markdown]
# The best count among images with five particles or more, and the worst; outlines show what was found. (The folder
# `overlays/` has such pictures with a number at each particle.) Where particles are merged, missed or invented, a count is
# wrong however good the Dice is: look at the pictures before you trust a number.

# %%
off = (images["particles"] - images["painted"]).abs() / images["painted"]
figure, axes = plt.subplots(1, 2, figsize=(8, 4), layout="constrained")
for axis, name in zip(axes, (off[images["painted"] >= 5].idxmin(), off.idxmax()), strict=True):
    axis.imshow(Image.open(DATA / "images" / name).convert("L"), cmap="gray")
    found = np.asarray(Image.open(prediction.out / "masks" / name)) > 0
    axis.contour(found, levels=[0.5], colors="tab:orange", linewidths=1.2)
    axis.set_title(f"{name[:10]}: {painted[name]} painted, {images.loc[name, 'particles']} found", fontsize=9)
    axis.axis("off")
plt.show()

# %% [markdown]
# ## 8. Particle sizes
#
# One row per particle, with its place, size and shape; `particles.json` says what each column means. Lengths are in pixels,
# as these files do not say their scale; where they do, or with `nm_per_pixel=0.5`, there are columns in nm, too.

# %%
particles = prediction.particles_frame()
particles.head()

# %%
figure, axis = plt.subplots(figsize=(5, 3), layout="constrained")
axis.hist(particles["equivalent_diameter_px"], bins=20, color="0.4", edgecolor="white")
axis.set_xlabel("diameter of a circle of equal area (pixels)")
axis.set_ylabel("particles")
plt.show()

# %% [markdown]
# `predict` also draws the size distribution with an interval over images (`sizes.pdf`), and the order of the particles
# (`order.pdf`); [particles](../particles.md) explains them.
#
# ## Where to go from here
#
# - The study on one page, with figures: `sage_ray.report("first", HOME)`, or `sage-ray report first` in a terminal
#   ([reports](../reports.md)). `sage-ray ui` shows a home in the browser.
# - Your own folder: change `DATA`, look at what `check` says, and begin with `sage_gan_paper` instead of `tiny_sage_gan`.
# - A real search: `sage_ray.plan("search_full", HOME, sets={"data.path": "FOLDER"}, pilot=True)` measures what it takes.
# - Does phase 2 pay? On the micrographs that we tried, an attention U-Net trained for as long did no worse
#   ([results](../results/emps-ablations.md)). `sage_ray.ablate("ablate_baselines", ...)` asks that of yours.
