#!/bin/bash
# One run on several machines of a SLURM cluster: torchrun on each, one rank per GPU.
#
#   sbatch --nodes 2 tools/slurm.sh --cfg configs/Kinetics/ReViT_TimeSformer_divST_8x32_224.yaml \
#       DATA.PATH_TO_DATA_DIR /shared/kinetics OUTPUT_DIR /shared/outputs/revit
#
# Submit it from the root of the repository, with its Python environment active. All machines must see the
# repository, the videos and OUTPUT_DIR under the same paths: only rank 0 writes, and all ranks read.
# `sbatch --nodes 2 tools/slurm.sh --dry-run` prints what each machine would start, and runs nothing.
# Before the time limit the run saves a checkpoint and ends; submitted again, it resumes from it.
#
#SBATCH --job-name revit_video
#SBATCH --ntasks-per-node 1
#SBATCH --gpus-per-node 8
#SBATCH --cpus-per-task 64
#SBATCH --time 24:00:00
#SBATCH --signal TERM@300
#SBATCH --open-mode append
set -euo pipefail

MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
MASTER_PORT=$((20000 + SLURM_JOB_ID % 40000)) # two jobs may share a machine
export MASTER_ADDR MASTER_PORT
export OMP_NUM_THREADS=1                      # as torchrun would set it, with a warning from each machine
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=35      # seconds from SIGTERM to SIGKILL: a rank ends itself after 28
# What sbatch was given for each task; since Slurm 22.05 srun does not take it over.
if [ -n "${SLURM_CPUS_PER_TASK:-}" ]; then export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK; fi

if [ "${1:-}" = --dry-run ]; then
    # shellcheck disable=SC2016
    srun bash -c 'echo "machine $SLURM_NODEID of $SLURM_NNODES, $(hostname): ${SLURM_GPUS_ON_NODE:-1} ranks" \
        "on $(nproc) cores (${SRUN_CPUS_PER_TASK:-not} asked for), meeting at $MASTER_ADDR:$MASTER_PORT"'
    exit
fi

# shellcheck disable=SC2016 # each machine puts in its own number
srun bash -c 'exec python -m torch.distributed.run \
    --nnodes "$SLURM_NNODES" --node-rank "$SLURM_NODEID" --nproc-per-node "${SLURM_GPUS_ON_NODE:-1}" \
    --master-addr "$MASTER_ADDR" --master-port "$MASTER_PORT" \
    tools/run_net.py "$@"' run_net "$@"
