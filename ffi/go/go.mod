module aieng

go 1.27
