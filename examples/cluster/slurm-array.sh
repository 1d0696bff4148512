#!/bin/bash
# Eight parts of a prompt file as an array of Slurm jobs, each on a GPU of its own: sbatch examples/cluster/slurm-array.sh
# Parts that were stopped are continued by the same command.
#SBATCH --job-name=sdapp
#SBATCH --array=0-7
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=4
#SBATCH --time=08:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --requeue

set -euo pipefail
export HF_HUB_OFFLINE=1 # download the model once, on a node with a network: sdapp pull MODEL

# `exec`, so that the signal two minutes before the end reaches sdapp, which then stops after a step.
# With a folder that all nodes see, leave --shard out: then fast nodes do more, and parts of dead nodes are taken over.
exec \
sdapp batch prompts.csv --out night --seed 7 --device cuda --shard "$((SLURM_ARRAY_TASK_ID + 1))/$SLURM_ARRAY_TASK_COUNT"
