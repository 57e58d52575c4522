fn main() -> std::process::ExitCode {
    oplogue::main_with(oplogue::builtin::registry())
}
