"""What threadpoolctl needs to know of our threads: imported where that is installed."""

from threadpoolctl import LibController, register

from xentfast import _kernels


class XentfastController(LibController):
    """Gets and sets the number of threads that calls of the calling thread may use."""

    user_api = "xentfast"
    internal_api = "xentfast"
    filename_prefixes = ("_kernels",)
    check_symbols = ("xentfast_get_num_threads", "xentfast_set_num_threads")

    def get_num_threads(self) -> int:
        """Return how many threads a call may use."""
        return int(self.dynlib.xentfast_get_num_threads())

    def set_num_threads(self, num_threads: int) -> None:
        """Set it for the calling thread."""
        self.dynlib.xentfast_set_num_threads(num_threads)

    def get_version(self) -> str:
        """Return the package's version."""
        return _kernels.version()


register(XentfastController)
