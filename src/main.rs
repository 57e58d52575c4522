/// The driver allocates each reply anew; glibc's allocator returns such blocks to the kernel every time, and faults them in
/// again (docs/decisions/allocator.md).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    oplogue::main_with(oplogue::builtin::registry())
}
