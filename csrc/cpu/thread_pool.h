// The thread pool of the CPU kernels: one per process.
//
// MLX runs each CPU stream on one thread and exports no pool of its own, so the kernels bring
// one. Several streams, nested regions and forked children are safe: a region that cannot have the
// workers runs on its caller alone, with the same result.
#pragma once

#include <cstddef>
#include <functional>

namespace mlx_ncps {

// Threads a region may use, its caller included: the value of set_num_threads(), else the variable
// MLX_NCPS_NUM_THREADS, else the CPUs in the affinity mask (Linux) or the performance cores
// (macOS). Throws std::invalid_argument if the variable is set and not a positive integer.
int num_threads();

// The CPUs in the affinity mask (Linux) or the performance cores (macOS).
int available_cpus();

// Sets the number of threads for regions that start from now on; 0 returns to the default.
// Throws std::invalid_argument when negative. Safe at any time, also while a region runs.
void set_num_threads(int n);

// Calls body(i) once for every i in [0, n), in any order, on the caller and on the workers, and
// returns when all calls have. The first exception that a call throws is rethrown here; indices not
// started by then are skipped.
void parallel_for(std::size_t n, const std::function<void(std::size_t)>& body);

// Calls body(thread, chain, link) once for every link of every chain, on up to `threads` threads
// that have different numbers `thread` < threads. The links of a chain run in order, one at a time,
// each on the thread that is free next: a chain may change its thread at every link. So all threads
// end within a link of each other even where one runs slower or starts late. Exceptions as above.
using ChainBody = std::function<void(std::size_t thread, std::size_t chain, std::size_t link)>;
void parallel_chains(std::size_t threads, std::size_t chains, std::size_t links,
                     const ChainBody& body);

}  // namespace mlx_ncps
